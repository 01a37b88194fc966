"""Floating-point numbers as Go's strconv and encoding/json write them: the fewest digits that tell the value."""

from __future__ import annotations


def shortest(value: float) -> tuple[str, str, int]:
    """Sign, digits without zeros at the end, and the power of ten of the first digit, of a finite value."""
    mantissa, _, exponent = f"{value!r}".partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    power = int(exponent or 0) + len(whole) - 1 - (len(whole + fraction) - len(digits) if digits else 0)
    return sign, digits.rstrip("0") or "0", power if digits else 0


def general(value: float, last_plain: int = 5) -> str:
    """%v: plain up to a power of `last_plain`, else with an exponent of two digits or more."""
    if value != value or value in (float("inf"), float("-inf")):
        return special(value)
    sign, digits, power = shortest(value)
    return sign + (plain(digits, power) if -4 <= power <= last_plain else scientific(digits, power))


def json_float(value: float) -> str:
    """As in JSON: plain from 1e-6 up to below 1e21, else with an exponent without zeros in front."""
    sign, digits, power = shortest(value)
    if -6 <= power < 21:
        return sign + plain(digits, power)
    return sign + scientific(digits, power).replace("e-0", "e-")


def special(value: float) -> str:
    """NaN and the infinities."""
    return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"


def plain(digits: str, power: int) -> str:
    """Without an exponent."""
    if power < 0:
        return "0." + "0" * (-power - 1) + digits
    if power + 1 >= len(digits):
        return digits + "0" * (power + 1 - len(digits))
    return f"{digits[: power + 1]}.{digits[power + 1 :]}"


def scientific(digits: str, power: int) -> str:
    """With an exponent of at least two digits."""
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{power:+03d}"
