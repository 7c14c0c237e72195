"""The guide shows the failure policy that the code has."""

from pathlib import Path

from render_farm.scheduling.retry import POLICY, Rule

PAGE = Path(__file__).parents[3] / "render_farm/guide/failures.md"


def line(rule: Rule) -> str:
    errors = ", ".join(rule.errors) or "any other"
    then = str(rule.then.value) + (". Its process ends" if rule.ends_process else "")
    then += f". At most {rule.attempts} tries" if rule.attempts else ""
    after = "1 s, 2 s, 4 s ..." if rule.delayed else "at once"
    return f"| {rule.fault} | {errors} | {then} | {'yes' if rule.counted else 'no'} | {after} |"


def test_the_guide_shows_the_policy():
    shown = [text for text in PAGE.read_text().splitlines() if text.split("|")[1:2] in ROWS]
    assert shown == [line(rule) for rule in POLICY]


ROWS = [[f" {name} "] for name in ("job", "worker", "cluster", "user")]
