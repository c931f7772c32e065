"""Disks that are full, folders that cannot be written, writes that fail one by one."""
