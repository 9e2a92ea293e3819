"""Plugins for registry authentication: twisted.plugin finds what provides `regcachd.interfaces.IRegistryAuth` here.

There is no such file in other distributions: their modules in a `regcachd/plugins` directory on sys.path are found too.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
