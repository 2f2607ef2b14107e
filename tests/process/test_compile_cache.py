"""The compile cache is private, and one that cannot be used only costs time."""

import jax

from bncli.process import compile_cache


def test_the_compile_cache_is_usable_where_it_can_be_written(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").touch()
    try:
        for directory, usable in (
            (None, False),
            (str(tmp_path), True),
            (str(tmp_path / "not" / "yet"), True),
            (str(tmp_path / "file" / "below"), False),
            ("gs://bucket/cache", True),
        ):
            jax.config.update("jax_compilation_cache_dir", directory)
            assert compile_cache.compile_cache() == compile_cache.CompileCache(directory, usable)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_cache_that_cannot_be_made_only_costs_time(monkeypatch, tmp_path):
    (tmp_path / "bncli").write_text("a file where the directory would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    compile_cache.use_compile_cache()
    assert jax.config.jax_compilation_cache_dir == before
