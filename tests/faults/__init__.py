"""The real program on a disk that fails; nothing acknowledged may be lost."""
