"""The benchmark: regcachd next to nginx, on this machine, in the same minutes (see README.md).

processes   child processes: started, waited for, ended by pid, their CPU time read
servers     the servers of a run: an upstream registry, regcachd and nginx, both with the same image cached
rounds      a case is measured in alternating rounds and becomes rows
row         a row of the table, the table, and the JSON file
blobs       cases: a cached layer, with 1, 4 and 16 clients
manifests   cases: one small request on a connection of its own
machine     what all this ran on
profile     where regcachd's time goes under these loads
"""
