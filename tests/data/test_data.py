"""The surface of the room."""

import bncli.data


def test_every_exported_name_is_listed_in_order_and_resolves():
    names = bncli.data.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    for name in names:
        assert getattr(bncli.data, name) is not None
