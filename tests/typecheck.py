"""How annotations are held to while tests run: as beartype does it, where an int is also a float, as in configs."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
