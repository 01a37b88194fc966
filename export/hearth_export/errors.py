"""What stops a conversion. str() of each is one sentence for the user: it names the file, the field and the value."""


class ExportError(Exception):
    """A conversion cannot go on; base of everything that the exporter raises on purpose."""


class BadCheckpoint(ExportError):
    """The file is truncated, damaged or contradicts itself."""


class UnsupportedModel(ExportError):
    """The file is sound, but holds something that this version cannot convert."""
