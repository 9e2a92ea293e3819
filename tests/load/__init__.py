"""Random load, compressed: `make soak`, or `python -m tests.load --seconds 20 --seed 7`.

A daemon of two workers with a store that is too small, before a registry that breaks answers off, stalls, refuses and
sends wrong bytes; many clients that ask for random things, abort and stall; workers that are killed, and a daemon that
is restarted. Everything comes from a seed, but for what the scheduler does.

content     the blobs, made anew from the seed by whoever needs them
upstream    the registry, a process of its own, with its random faults
clients     what clients do, and whether what they got is right
processes   descriptors and memory of the workers, from /proc
storage     what lies in the store: every blob verified, every partial counted
soak        the course of it all, and the verdict
"""
