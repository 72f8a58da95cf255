"""Settings that every test shares."""

import os
import signal
import sys
import threading

from hypothesis import settings

settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("GRAPHOPT_HYPOTHESIS", "default"))

# tests compare folders: importing a plugin of one leaves nothing in it
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
# a shell starts background jobs deaf to SIGINT, and their children with them
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
