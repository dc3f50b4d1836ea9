"""BYTES tensors as arrays of bytes, and the arrays of str that some libraries want."""

from __future__ import annotations

import numpy as np

from lanewise.errors import MalformedContents
from lanewise.model.tensors import Array


def decode_strings(array: Array, name: str) -> Array:
    """Get a new array of str from one of UTF-8 bytes; `name` is the input's, for the message.

    Raises:
        MalformedContents: an element is not UTF-8.
    """
    decoded: Array = np.empty(array.shape, np.object_)
    elements = decoded.reshape(-1)
    for index, element in enumerate(array.reshape(-1).tolist()):
        try:
            elements[index] = element.decode()
        except UnicodeDecodeError as error:
            raise MalformedContents(
                f"input '{name}': the model takes UTF-8 text, but element {index} "
                f"is not: {error}; send text, or base64 if the model decodes it"
            ) from error
    return decoded


def encode_strings(array: Array) -> Array:
    """Get a new array of UTF-8 bytes from one of str."""
    encoded: Array = np.empty(array.shape, np.object_)
    encoded.reshape(-1)[:] = [element.encode() for element in array.reshape(-1).tolist()]
    return encoded
