"""Which night it is, when it must be over, and what its manifest is called."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_farm.planning import nights

BERLIN = nights.zone("Europe/Berlin")
CALENDAR = nights.Calendar(zone=BERLIN, begins=time(12, 0), ends=time(7, 0))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("now", "night"),
    [
        ("2030-01-31T20:00", "2030-01-31"),
        ("2030-02-01T03:00", "2030-01-31"),  # a late start makes up for the same night
        ("2030-02-01T11:59", "2030-01-31"),
        ("2030-02-01T12:00", "2030-02-01"),
    ],
)
def test_a_night_lasts_from_noon_to_noon(now, night):
    assert CALENDAR.night_of(at(now)) == date.fromisoformat(night)


def test_the_date_is_that_of_the_zone():
    just_after_noon_in_tokyo = datetime(2030, 1, 31, 3, 30, tzinfo=UTC)
    tokyo = nights.Calendar(zone=nights.zone("Asia/Tokyo"))
    assert tokyo.night_of(just_after_noon_in_tokyo) == date(2030, 1, 31)
    assert nights.Calendar(zone=nights.zone("UTC")).night_of(just_after_noon_in_tokyo) == date(2030, 1, 30)


def test_the_deadline_is_the_first_after_the_beginning():
    assert CALENDAR.deadline_of(date(2030, 1, 31)) == at("2030-02-01T07:00")
    evening = nights.Calendar(zone=BERLIN, begins=time(0, 0), ends=time(22, 30))
    assert evening.deadline_of(date(2030, 1, 31)) == at("2030-01-31T22:30")
    assert nights.Calendar(zone=BERLIN).deadline_of(date(2030, 1, 31)) is None


def test_nights_with_a_changed_clock_keep_their_wall_clock_deadline():
    spring, autumn = date(2030, 3, 30), date(2030, 10, 26)
    assert CALENDAR.deadline_of(spring) == datetime(2030, 3, 31, 5, 0, tzinfo=UTC)
    assert CALENDAR.deadline_of(autumn) == datetime(2030, 10, 27, 6, 0, tzinfo=UTC)


@given(st.datetimes(min_value=datetime(2020, 1, 2), max_value=datetime(2039, 1, 1), timezones=st.just(UTC)))
def test_every_moment_is_in_one_night_and_before_or_after_its_deadline(now):
    night = CALENDAR.night_of(now)
    assert datetime.combine(night, time(12), BERLIN).astimezone(UTC) <= now
    deadline = CALENDAR.deadline_of(night)
    assert deadline is not None and deadline.astimezone(BERLIN).date() > night
    assert nights.before(night, 2)[0] == CALENDAR.night_of(datetime.combine(night, time(11, 59), BERLIN))


def test_fields_of_a_pattern():
    assert nights.fill_in("s3://b/{year}/{month}/{day}/{date}.parquet", date(2030, 1, 5)) == (
        "s3://b/2030/01/05/2030-01-05.parquet"
    )
    with pytest.raises(ValueError, match=r"\{night\} is none of \{date\}"):
        nights.fill_in("{night}.parquet", date(2030, 1, 5))
    for broken in ("{date.parquet", "date}.parquet", "{{date}}.parquet"):
        with pytest.raises(ValueError, match=r"a brace is alone; write \{date\}"):
            nights.fill_in(broken, date(2030, 1, 5))


@pytest.mark.parametrize("text", ["25:00", "7", "07:60", "noon", ""])
def test_what_is_no_time_of_day(text):
    with pytest.raises(ValueError, match="07:30"):
        nights.clock(text)


def test_a_zone_that_is_not_known():
    with pytest.raises(ValueError, match="Europe/Berlin"):
        nights.zone("Mars/Olympus")
