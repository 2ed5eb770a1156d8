"""`make bench`: the speed of the rendered project beside bare arq, SAQ and taskiq.

`__main__` runs on this repository's interpreter, `project` and `arq_workers` on that of a rendered project,
`saq_noop` and `taskiq_noop` on those of SAQ and taskiq, and `noop` on all but the first.
"""
