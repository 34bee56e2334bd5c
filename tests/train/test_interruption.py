import os
import signal
import subprocess
import sys

import pytest

from simsiam.train.interruption import Interrupted, StopSignals, stopping_at_once


def test_the_first_signal_is_remembered_and_the_second_would_act_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def test_where_there_is_no_step_to_finish_sigterm_is_an_exception() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped by SIGTERM with no step lost") as caught, stopping_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


STUCK = """
import ctypes, os, signal
from simsiam.train import interruption

def wait_for_ever(*_):
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)  # the second time, without asking Python

interruption.SECOND_SIGNAL_SECONDS = 0.0
interruption.end_at_second_signal()
child = os.fork()
if child == 0:
    os._exit(signal.set_wakeup_fd(-1) != -1)  # a child's signals are not the parent's
assert os.waitpid(child, 0)[1] == 0
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, wait_for_ever)
print("waits", flush=True)
wait_for_ever()
"""


def test_second_signal_ends_a_process_that_never_comes_back_to_python() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"waits\n"
        for number in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
        # Of two that come at once, the system delivers either one first.
        assert process.wait(timeout=30) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
