"""Why a fit ends without a bundle. Here, and not where they are raised, so that nobody imports torch to catch them."""


class DeviceError(Exception):
    """The device that was asked for is not there."""


class FitError(Exception):
    """Training cannot go on; the text says what was seen and what to do."""


class ParityError(Exception):
    """The exported graph and the fitted modules disagree: a fault of the exporter or of onnxruntime."""
