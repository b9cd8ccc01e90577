"""When a machine that does not react to signals is given up."""

import signal

import pytest

from vimto.vm.delivery import Delivery
from vimto.vm.signals import Interrupted

STUCK = "`dd` (process 213) is in uninterruptible sleep\npercpu_rwsem_wait"


def send(delivery: Delivery, number: int, now: float) -> None:
    delivery.sent(now)
    delivery.expect(number, now)


def play(delivery: Delivery, start: float, limit: float, stuck: str | None) -> list[int]:
    """Let the guest answer `stuck`, or with None nothing, and return the signals that were sent."""
    sent = []
    now = start
    while delivery.wake_at and delivery.wake_at <= start + limit:
        now = max(now, delivery.wake_at)
        number = delivery.check(now)
        if number is not None:
            sent.append(number)
            delivery.sent(now)
            if stuck is not None:
                assert delivery.answered(stuck, now + 0.1)
    return sent


def test_silence_after_a_signal_has_a_limit() -> None:
    delivery = Delivery(10)
    send(delivery, signal.SIGTERM, 100)
    assert delivery.wake_at == 110
    assert delivery.check(109.9) is None
    with pytest.raises(Interrupted, match="10 s after SIGTERM: the guest program") as caught:
        delivery.check(110)
    assert caught.value.status == 143


def test_a_command_that_handles_signals_goes_on() -> None:
    delivery = Delivery(10)
    send(delivery, signal.SIGINT, 100)
    assert delivery.answered("", 100.1)
    assert set(play(delivery, 100.1, 1000, "")) == {0}
    assert delivery.wake_at == 0


def test_a_process_that_sleeps_on_ends_the_machine() -> None:
    delivery = Delivery(10)
    send(delivery, signal.SIGINT, 100)
    assert delivery.answered(STUCK, 100.1)
    with pytest.raises(Interrupted, match=r"10 s after SIGINT: `dd` \(process 213\)") as caught:
        play(delivery, 100.1, 1000, STUCK)
    assert caught.value.status == 130
    assert caught.value.lines == ("percpu_rwsem_wait",)


def test_a_sleep_may_end_within_the_grace_period_or_begin_in_it() -> None:
    delivery = Delivery(10)
    send(delivery, signal.SIGTERM, 100)
    assert delivery.answered(STUCK, 100.1)
    play(delivery, 100.1, 5, STUCK)
    play(delivery, 105, 4, "")
    with pytest.raises(Interrupted):
        play(delivery, 109, 1000, STUCK)
    delivery = Delivery(10)
    send(delivery, signal.SIGTERM, 100)
    assert delivery.answered(STUCK, 100.1)
    play(delivery, 100.1, 5, STUCK)
    play(delivery, 105.5, 1000, "")
    assert delivery.wake_at == 0


def test_a_guest_that_falls_silent_later_is_noticed() -> None:
    delivery = Delivery(10)
    send(delivery, signal.SIGTERM, 100)
    assert delivery.answered("", 100.1)
    with pytest.raises(Interrupted, match="does not answer"):
        play(delivery, 100.1, 1000, None)


def test_signals_that_ask_for_no_end_have_no_limit() -> None:
    delivery = Delivery(10)
    delivery.sent(100)
    assert delivery.wake_at == 0
    send(delivery, signal.SIGTERM, 500)  # the limit counts from the signal that asks
    assert delivery.wake_at == 510


def test_without_a_grace_period_there_is_no_end() -> None:
    delivery = Delivery(0)
    send(delivery, signal.SIGTERM, 100)
    assert delivery.wake_at == 0
    send(delivery, signal.SIGHUP, 100)
    assert delivery.wake_at == 102


def test_the_shortest_grace_period_counts() -> None:
    delivery = Delivery(10)
    send(delivery, signal.SIGTERM, 100)
    send(delivery, signal.SIGHUP, 101)
    with pytest.raises(Interrupted, match="2 s after SIGHUP"):
        play(delivery, 101, 2.1, None)


def test_after_a_closed_terminal_the_command_is_killed_and_then_the_machine() -> None:
    delivery = Delivery(10)
    send(delivery, signal.SIGHUP, 100)
    assert delivery.hangs_up
    delivery.hang_up(100)
    assert not delivery.hangs_up
    assert delivery.answered("", 100.1)
    with pytest.raises(Interrupted, match="10 s after SIGKILL: it has not") as caught:
        play(delivery, 100.1, 1000, "")
    assert caught.value.status == 129


def test_time_in_a_debugger_does_not_count() -> None:
    delivery = Delivery(10)
    send(delivery, signal.SIGTERM, 100)
    delivery.postpone(50)
    assert delivery.wake_at == 160
    assert delivery.check(159) is None


def test_an_answer_to_nothing() -> None:
    assert not Delivery(10).answered("", 100)
