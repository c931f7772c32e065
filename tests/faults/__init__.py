"""Disks that are full, folders that cannot be written, files that vanish, processes that are killed or meet each other."""
