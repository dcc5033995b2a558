"""Objects in buckets and on web servers, read in parts. The door to obstore.

An `Address` (s3://, gs://, az://, http(s)://) is to an object what a path is to a file; `place_of` tells
one from the other. What it knows of credentials - a user and password, a signature - is used to read and
shown nowhere: `str` and `repr` leave it out.

    store = store_of(address)       # all that lies below the address; SlideError without obstore
    store.get("0/.zarray")          # an object below it, whole; FileNotFoundError where there is none
    store.get_range("c/0/0", 512, 4096)
    store.head("zarr.json")         # Found: key, size, version; "" is the address itself
    store.below("0")                # Listing: objects and folders one step below
    store.all_below()               # all objects below, at any depth

Keys are relative to the address. A store may be used by many threads; of all stores of a process at most
16 requests are under way at a time, and failed ones are repeated. `RemoteFile` reads one object as a slide
is read: its beginning once, then ranges that are fetched before they are asked for (`prefetch`), each of
the version that was there when it was opened.
"""

from __future__ import annotations

from histofast._remote.addresses import Address, Place, place_of, places_of
from histofast._remote.ahead import Ahead
from histofast._remote.file import RemoteFile, version_of
from histofast._remote.ranges import Block, merge_ranges
from histofast._remote.store import Found, Listing, Store, store_of

__all__ = [
    "Address",
    "Ahead",
    "Block",
    "Found",
    "Listing",
    "Place",
    "RemoteFile",
    "Store",
    "merge_ranges",
    "place_of",
    "places_of",
    "store_of",
    "version_of",
]
