"""Files that are whole or not there, and locks between processes. The door to filelock.

Every file that is made here is made in one way: a hidden temporary beside its place, locked while
its owner lives; its bytes on the disk; the name; the folder on the disk. What a killed process
leaves is a temporary that nobody has locked. The next process removes it before it writes its first
file there; `remove_stale_temporaries` does so in all folders below one.

Some file systems (Lustre, NFS, FUSE, as they are mounted) know no locks. That is noted once, and the
work goes on: equal input gives equal bytes, and a rename leaves one whole file of two. Others lock
among the processes of one machine only, and say nothing of it: what another machine left is removed
when it has not been touched for a week, and whoever makes a slide takes a lease beside the lock.
"""

from __future__ import annotations

from histofast._files.failing import write_error
from histofast._files.leases import BEAT_S, STALE_S, Lease, Sightings, remove_dead_leases
from histofast._files.locks import Holder, Lock, NoLocksWarning
from histofast._files.opening import (
    existing_folder,
    path_of,
    paths_of,
    refuse_stand_in,
    regular_file,
)
from histofast._files.shared import try_shared
from histofast._files.state import State, state_of
from histofast._files.writing import (
    Temporary,
    check_target,
    make_folder,
    passing_folder,
    remove_stale_temporaries,
    replacing,
    replacing_both,
    replacing_folder,
)

__all__ = [
    "BEAT_S",
    "STALE_S",
    "Holder",
    "Lease",
    "Lock",
    "NoLocksWarning",
    "Sightings",
    "State",
    "Temporary",
    "check_target",
    "existing_folder",
    "make_folder",
    "passing_folder",
    "path_of",
    "paths_of",
    "refuse_stand_in",
    "regular_file",
    "remove_dead_leases",
    "remove_stale_temporaries",
    "replacing",
    "replacing_both",
    "replacing_folder",
    "state_of",
    "try_shared",
    "write_error",
]
