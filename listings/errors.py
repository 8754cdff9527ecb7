"""Refusals of this package: each has a stable code, the next step is in the hint."""

from market.kernel.errors import (
    BadRequest,
    Conflict,
    Invalid,
    MarketError,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)


class ProductNotFound(NotFound):
    code = "product_not_found"
    title = "No such product"


class VersionNotFound(NotFound):
    code = "version_not_found"
    title = "No such version of this product"


class CertificateNotFound(NotFound):
    code = "certificate_not_found"
    title = "No such certificate"


class ListingNotFound(NotFound):
    code = "listing_not_found"
    title = "No such listing"


class IllegalTransition(Conflict):
    code = "illegal_transition"
    title = "The object's status does not allow this"
    default_hint = "`allowed` names the actions that its current status permits."


class ProductInvalid(Invalid):
    code = "product_invalid"
    title = "The changed fields do not fit together"


class NotEditable(Conflict):
    code = "not_editable"
    title = "Only drafts and rejected objects can be changed"


class VersionMissing(Conflict):
    code = "version_missing"
    title = "The product has no version to review"
    default_hint = "Upload data with POST /v1/products/{product_id}/versions first."


class VersionDuplicate(Conflict):
    code = "version_duplicate"
    title = "The product already has a version with these bytes"


class ProductNotRegistered(Conflict):
    code = "product_not_registered"
    title = "The product has no certified version"
    default_hint = "Submit the product and wait for its certificate."


class ListingNotLive(Conflict):
    code = "listing_not_live"
    title = "The listing is not on the market"


class ListingReserved(Conflict):
    code = "listing_reserved"
    title = "The data is promised to one buyer, or being auctioned exclusively"
    default_hint = "Bid in the auction while it runs: GET /v1/auctions?status=open."


class CoreDataRefused(Invalid):
    code = "core_data_refused"
    title = "Core data cannot be traded"
    default_hint = "Data of this grade stays with its holder; correct a wrong declaration."


class FilingRequired(Invalid):
    code = "filing_required"
    title = "Important data needs a filing reference"
    default_hint = "Set `filing_reference` to the number of your important-data filing."


class DeidentificationRequired(Invalid):
    code = "deidentification_required"
    title = "Personal data needs de-identification evidence"
    default_hint = "Set `deidentification` with method and evidence, or remove the named columns."


class RightMissing(Invalid):
    code = "right_missing"
    title = "The product lacks the right to operate a data product"
    default_hint = "Declare `rights.product_operation` with its basis, then register again."


class UploadTooLarge(TooLarge):
    code = "upload_too_large"
    title = "The file is larger than this exchange accepts"


class UploadExpired(Unavailable):
    """The sweeper took the stored file for abandoned before its row was written."""

    code = "upload_expired"
    title = "The upload took too long to finish"


class UploadInterrupted(BadRequest):
    code = "upload_interrupted"
    title = "The file did not arrive completely"
    default_hint = "Send it again with a new connection."


class UploadEmpty(Invalid):
    code = "upload_empty"
    title = "The file has no rows"


class UploadFormatUnsupported(UnsupportedMediaType):
    code = "upload_format_unsupported"
    title = "The content type is not one of the accepted file formats"
    default_hint = "Send text/csv (charset utf-8 or gb18030) or application/vnd.apache.parquet."


class FileUnreadable(Invalid):
    code = "file_unreadable"
    title = "The file could not be read"
    default_hint = "Check that the file opens elsewhere and matches its Content-Type."


class FileTooExpansive(Invalid):
    code = "file_too_expansive"
    title = "The file decodes to more data than this exchange accepts"
    default_hint = "Split the data over several products or versions."


class TooManyColumns(Invalid):
    code = "too_many_columns"
    title = "The file has too many columns"


class TooManyRows(Invalid):
    code = "too_many_rows"
    title = "The file has too many rows"


class ColumnNameInvalid(Invalid):
    code = "column_name_invalid"
    title = "A column name is not acceptable"
    default_hint = "Use unique names of letters, digits, spaces and _-.()%/#: up to 128 characters."


class ColumnTypeUnsupported(Invalid):
    code = "column_type_unsupported"
    title = "A column has a type that cannot be traded"
    default_hint = "Flatten nested columns and store binary values as text."


class UploadsBusy(Unavailable):
    code = "uploads_busy"
    title = "All upload workers are busy"


# What the parsing process may answer with; anything else it says means file_unreadable.
PARSE_REFUSALS: dict[str, type[MarketError]] = {
    error.code: error
    for error in (
        ColumnNameInvalid,
        ColumnTypeUnsupported,
        FileTooExpansive,
        FileUnreadable,
        TooManyColumns,
        TooManyRows,
        UploadEmpty,
    )
}


class FingerprintInvalid(Invalid):
    """A fingerprint marks numbers of rows that columns of the version tell apart."""

    code, title = "fingerprint_invalid", "The version's columns cannot be marked like this"
    default_hint = "Name key columns, and numeric columns with a tolerance that their type has."


class FilterInvalid(Invalid):
    """Extra member ``position``: zero-based character offset of the offending token."""

    code, title = "filter_invalid", "The filter cannot be used"


class MaskInvalid(Invalid):
    """A mask names a column of the version, of a type that its kind is for."""

    code, title = "mask_invalid", "The version's columns cannot be masked like this"
    default_hint = "Text takes pseudonym and prefix, numbers round, times truncate, all hide."
