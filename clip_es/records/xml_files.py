"""XML without entities, document types and references to other files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from clip_es.errors import DataError
from clip_es.records.text_files import printable

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

XML_ERRORS = (DefusedXmlException, ParseError, ValueError, LookupError)
"""What parsing raises. ValueError and LookupError: an encoding that does not exist or cannot be decoded."""


def parse_xml(data: bytes, where: object) -> Element:
    """The outermost element. Raises DataError: not well-formed, or it declares what it never needs."""
    try:
        return fromstring(data, forbid_dtd=True)
    except XML_ERRORS as error:
        raise refused_xml(error, where) from None


def refused_xml(error: Exception, where: object) -> DataError:
    """An error of the parser in our words."""
    if isinstance(error, DefusedXmlException):
        return DataError(
            "declares a document type or entities, which an annotation never needs",
            where=where,
            expected="plain XML",
            found=type(error).__name__,
            next_step="Remove the declaration from the file.",
        )
    return DataError(
        "is not well-formed XML", where=where, found=printable(str(error)), next_step="Repair or re-export it."
    )
