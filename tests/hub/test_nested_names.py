"""The tables of models that hold other models."""

from lora_jax.hub.names import Names, Stored, nest

INNER = Names(
    (Stored("norm/scale", "ln.weight"),),
    prefixes=("inner.",),
    renames={r"^gamma$": "ln.weight"},
    unused=(r"ids|old\..+",),
)


def test_a_part_keeps_its_own_spellings_behind_its_prefix():
    table = nest({"vision": ("tower.", INNER)}, renames={r"^eye\.": "tower."})
    assert table.stored == (Stored("vision/norm/scale", "tower.ln.weight"),)
    assert table.canonical("tower.inner.ln.weight") == "tower.ln.weight"
    assert table.canonical("eye.gamma") == "tower.ln.weight"
    assert table.canonical("gamma") == "gamma"
    assert table.unused == (r"tower\.(ids|old\..+)",)


def test_rows_of_the_whole_replace_those_of_a_part():
    table = nest({"vision": ("tower.", INNER)}, stored=(Stored("vision/norm/scale", "scale"),))
    assert table.stored == (Stored("vision/norm/scale", "scale"),)


def test_axes_of_one_and_numbers_are_read_as_the_file_has_them():
    token = Stored("class_token", "cls", ones=2)
    assert token.stored_shape((8,)) == (1, 1, 8)
    assert token.stored_index((slice(2, 4),), (8,)) == (slice(None), slice(None), slice(2, 4))
    number = Stored("scale", "scale")
    assert number.stored_shape(()) == ()
    assert number.stored_index((), ()) == ()
