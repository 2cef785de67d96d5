"""The agent's place among the daemons that want the processor at a take-over.

Hard facts: conntrackd runs with SCHED_RR whatever its configuration says (priority 1 in ours), so on a
machine with one processor a bulk of 300,000 states would keep an ordinary process from opening the gate for
seconds. keepalived (50 in ours) must come before both. A real-time process that never blocks stops the
machine, so the kernel ends ours after LONGEST_S of that, and the service manager starts it again.
"""

import os
import resource

PRIORITY = 10
LONGEST_S = 10


def take_precedence() -> bool:
    """False where that is not allowed (no CAP_SYS_NICE, a user namespace); all works then, less promptly."""
    microseconds = LONGEST_S * 1_000_000
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (microseconds, microseconds))
        # children (conntrackd's client, the hook's) are ordinary processes again
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except (OSError, ValueError):
        return False
    return True
