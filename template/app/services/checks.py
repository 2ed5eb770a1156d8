"""What a check of the application's health says."""

from typing import Literal

from pydantic import BaseModel

# From good to bad.
Status = Literal["pass", "warn", "fail"]


class Check(BaseModel):
    """One thing that was checked; `output` says what is wrong and how to fix it."""

    status: Status = "pass"
    output: str | None = None
