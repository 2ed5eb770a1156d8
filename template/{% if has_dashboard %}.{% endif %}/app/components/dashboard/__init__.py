"""The operations pages: what a person sees and does with a browser, below /ops."""
