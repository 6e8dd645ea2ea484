"""Files from anywhere: what is opened, how large it may be, and how much its content may hold.

Every reader of the package begins here. A path that is no regular file is refused before it is opened, a file over the
limit of its kind before it is read, and numbers in its headers before anything is allocated for them.
"""
