"""regcachctl: asks a running regcachd, over its admin socket, and shows what it says.

main      the program and its options; each command is a function with options
client    the socket: found, asked, and what can go wrong with it
store     `regcachctl store`
scrub     `regcachctl scrub`
check_upstream  `regcachctl check-upstream`
import_env  `regcachctl import-env`: its files; the conversion is pure:
            sources (what is this text?) -> containers, deepops, variables -> migration -> TOML;
            predecessor is what docker-registry-proxy was like, nginx its values
words     sizes and times as people read them
"""
