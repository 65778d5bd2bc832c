"""The search of the laws' tests, for classes that must fail it, and the laws a module holds."""

from hypothesis import Phase, given, settings


def search(cls, law, generators):
    """Raises what the search of test_laws.py and test_sae_laws.py raises, without shrinking.

    It takes as many examples as they do at most: what 50 are depends on the modules that happen to
    be loaded, whose constants Hypothesis draws, and one twin is caught by 4 to 20 of 50.
    """

    @settings(
        max_examples=200,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(cls.strategy(), generators)
    def attempt(instance, generator):
        law(instance, generator)

    attempt()


def written_laws(module):
    """The public functions of a laws module that have the signature of a law."""
    return {
        value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "") == module.__name__
        and list(getattr(value, "__annotations__", {}))[1:] == ["generator", "return"]
    }
