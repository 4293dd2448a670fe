"""Numbers that may be something else than amounts: times, dates, or codes."""

from __future__ import annotations

import math
from collections import Counter

FEW_CODES = 20  # distinct numbers at most, that may be codes
FILL = 0.15  # of the numbers that their steps could reach
LEAST, SHARE = 5, 0.001  # rows, and share of them, that each code has at least
EPOCHS = 946_684_800, 2_208_988_800  # 2000-01-01 and 2040-01-01 in seconds since 1970


def looks_like_codes(times: Counter[float], n: int) -> bool:
    """Whether few numbers, which come so many times in n rows, lie thinly on the grid of their steps, as 200, 301, 404 do.

    Not so do counts, which begin at 0 and have a tail of rare ones, steps of 5 or 10, powers of 2, and coins: 1, 2, 5, 10.
    """
    numbers = sorted(map(int, times))
    if not 3 <= len(numbers) <= FEW_CODES or numbers[0] <= 0 or min(times.values()) < max(LEAST, SHARE * n):
        return False
    step = math.gcd(*(number - numbers[0] for number in numbers))
    thin = len(numbers) <= FILL * ((numbers[-1] - numbers[0]) // step + 1)
    powers = all(number & (number - 1) == 0 for number in numbers)
    coins = all(str(number).rstrip("0") in ("1", "2", "25", "5") for number in numbers)
    return thin and not powers and not coins


def is_epoch(low: float, high: float) -> bool:
    """Whether numbers from low to high lie where times of 2000 to 2040 do, in (milli-, micro-, nano-)seconds since 1970."""
    return any(EPOCHS[0] * unit <= low and high < EPOCHS[1] * unit for unit in (1, 1e3, 1e6, 1e9))


def is_date(low: float, high: float) -> bool:
    """Whether whole numbers from low to high may be dates from 1900 to 2099 without dashes, 20261123."""
    return all(1900 <= n // 10_000 < 2100 and 1 <= n // 100 % 100 <= 12 and 1 <= n % 100 <= 31 for n in (low, high))
