"""What kind of ECG file something is, told by its content; and XML that is safe to parse.

Names and extensions mean nothing: systems write MUSE XML as `.ecg`, and DICOM without any. The
marks are those of the formats' public descriptions: DICOM PS3.10 section 7.1, EDF
(https://www.edfplus.info/specs/edf.html), ISHNE (Badilini 1998), SCP-ECG (EN 1064, section 0 first
in the pointer list), the header of WFDB (https://physionet.org/physiotools/wag/header-5.htm), MFER
(ISO 22077), and the root elements of the XML formats.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.parsers import expat

from data.strips import BeatError

# Root element -> format.
XML = {
    "RestingECG": "GE MUSE XML",
    "restingecgdata": "Philips XML",
    "AnnotatedECG": "HL7 aECG",
    "ECG": "Mortara XML",
    "CardiologyXML": "CardioSoft XML",
}
WFDB = "WFDB"
CARDIOSOFT = XML["CardiologyXML"]
# Format -> module and class of ecgdatakit.
PARSERS = {
    "GE MUSE XML": ("ge_muse_xml", "GEMuseXMLParser"),
    "Philips XML": ("sierra_xml", "SierraXMLParser"),
    "HL7 aECG": ("hl7_aecg", "HL7aECGParser"),
    "Mortara XML": ("mortara_el250", "MortaraEL250Parser"),
    "DICOM": ("dicom_waveform", "DICOMWaveformParser"),
    "EDF": ("edf", "EDFParser"),
    "ISHNE": ("ishne_holter", "ISHNEHolterParser"),
    "SCP-ECG": ("scp_ecg", "SCPECGParser"),
    "MFER": ("mfer", "MFERParser"),
}
UNKNOWN = "no known format"
HEAD = 4096  # bytes by which a format is told
MAX_XML = 16 * 2**20  # bytes; an ECG has 0.1 to 3 MB
MAX_ELEMENTS, MAX_DEPTH = 200_000, 64

# What is no ECG, by its first bytes.
_OTHERS = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!": "a rar archive: unpack it",
    b"BZh": "compressed by bzip2: unpack it",
    b"\xfd7zXZ": "compressed by xz: unpack it",
    b"%PDF": "a PDF: a picture of an ECG, no samples",
    b"\x89PNG": "a picture, no samples",
    b"\xff\xd8\xff": "a picture, no samples",
    b"\xffBIOSEMI": "BDF, which is not read",
}
# Of expat: an invalid token, an unknown encoding, an incorrect one, a partial character.
_ENCODING_ERRORS = (4, 6, 18, 19)
_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"<\x00", b"\x00<")
_HEADER = re.compile(rb"(?:[ \t]*(?:#[^\n]*)?\r?\n)*[-\w]+(?:/\d+)?[ \t]+\d+[ \t\r\n]")


def tell_format(file: Path, head: bytes) -> str:
    """Tells the format of a file, a key of `PARSERS`, `WFDB` or `CARDIOSOFT`.

    Args:
        file: the whole of it is read only if it is XML, which is then found to be safe to parse.
        head: its first `HEAD` bytes.

    Raises:
        BeatError: it is none of these, or XML that nobody should parse; the message is the reason.
    """
    if not head:
        raise BeatError("empty file")
    for mark, reason in _OTHERS.items():
        if head.startswith(mark):
            raise BeatError(reason)
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(b"ISHNE1.0"):
        return "ISHNE"
    if head.startswith(b"0       ") and len(head) >= 256:
        return "EDF"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") or head.startswith(_UTF16):
        found = XML.get(root_element(file))
        if found is None:
            raise BeatError("XML of no known kind of ECG")
        return found
    if file.suffix.lower() == ".hea" and _HEADER.match(head.removeprefix(b"\xef\xbb\xbf")):
        if not file.with_suffix(".hea").is_file():
            raise BeatError(f"a WFDB header called {file.suffix}: call it .hea")
        return WFDB
    for name in ("SCP-ECG", "MFER"):  # the second has loose marks, and comes last
        if parser(name).can_parse(file, head):
            return name
    raise BeatError(UNKNOWN)


def parser(name: str) -> type:
    """The class of ecgdatakit that reads a format."""
    from importlib import import_module

    module, attribute = PARSERS[name]
    return getattr(import_module(f"ecgdatakit.parsing.parsers.{module}"), attribute)


def root_element(file: Path) -> str:
    """Reads XML to its end without keeping any of it; its outermost element, without namespace.

    A document type may be named, as MUSE does, but nothing is fetched; a file that defines
    entities, or is too large, too deep or of too many elements, is refused before any parser makes
    a tree of it.

    Raises:
        BeatError: it is refused, or damaged.
    """
    with file.open("rb") as opened:
        content = opened.read(MAX_XML + 1)
    if len(content) > MAX_XML:
        raise BeatError(f"XML larger than {MAX_XML // 2**20} MB")
    try:
        return _root(content)
    except expat.ExpatError as error:
        # Bytes that are not of the encoding that the file declares, or is taken to have.
        if error.code not in _ENCODING_ERRORS:
            raise BeatError(f"damaged XML: {expat.ErrorString(error.code)}") from error
    except (LookupError, ValueError) as error:
        if isinstance(error, BeatError):
            raise
    text = re.sub(rb"^\s*<\?xml[^>]*\?>", b"", content.removeprefix(b"\xef\xbb\xbf"), count=1)
    try:
        return _root(text.decode("latin-1").encode())
    except expat.ExpatError as error:
        raise BeatError(f"damaged XML: {expat.ErrorString(error.code)}") from error


def _root(content: bytes) -> str:
    reader, names, count = expat.ParserCreate(), [], [0, 0]

    def start(name: str, _: object) -> None:
        count[0] += 1
        count[1] += 1
        if count[0] == 1:
            names.append(name.rpartition(":")[2])
        if count[0] > MAX_ELEMENTS:
            raise BeatError(f"XML of more than {MAX_ELEMENTS} elements")
        if count[1] > MAX_DEPTH:
            raise BeatError(f"XML nested deeper than {MAX_DEPTH}")

    def end(_: str) -> None:
        count[1] -= 1

    def refuse(*_: object) -> None:
        raise BeatError("XML that defines entities")

    reader.StartElementHandler, reader.EndElementHandler = start, end
    reader.EntityDeclHandler = refuse
    reader.Parse(content, True)
    return names[0]
