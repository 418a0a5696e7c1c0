"""What holds for all tests."""

import signal

# A shell's background job ignores Ctrl-C and nohup a hang-up; so would all that the tests start.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler)
