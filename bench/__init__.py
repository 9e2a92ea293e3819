"""The benchmark: regcachd next to nginx, on this machine, in the same minutes (see README.md).

processes   child processes: started, waited for, ended by pid, their CPU time and memory read
origin      the registry everything comes from, as fast or as slow as it is told
line        a slow line to it, and what came through
servers     regcachd and nginx, before that registry
rounds      a family of cases is measured in alternating rounds and becomes rows
row         a row of the table, the table, and the JSON file
blobs       cases: a cached layer, with 1, 4 and 16 clients, one worker or two
manifests   cases: one small request on a connection of its own
cold        cases: layers that are not cached yet
patience    cases: a thousand slow clients
storm       cases: a whole cluster pulls one image
nodes       the nodes of a cluster, each doing what containerd does
wire        one of their connections
crowd       many clients in one thread, every byte compared
machine     what all this ran on
profile     where regcachd's time goes under these loads
"""
