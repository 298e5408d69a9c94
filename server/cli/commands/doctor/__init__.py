"""`doctor`: a real upload through the public URL, and everything that is in the way of one."""
