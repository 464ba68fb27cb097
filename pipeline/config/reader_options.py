"""The options that Spark's readers know. Spark ignores others without a word, and a misspelt
multiLine would tear rows apart."""

# fmt: off
OF_FILES = (
    "basePath", "ignoreCorruptFiles", "ignoreMissingFiles", "modifiedAfter", "modifiedBefore",
    "pathGlobFilter", "recursiveFileLookup",
)
"""Options of all that is read from files."""
READER_OPTIONS: dict[str, tuple[str, ...]] = {
    "csv": (
        *OF_FILES,
        "charToEscapeQuoteEscaping", "charset", "codec", "columnNameOfCorruptRecord",
        "columnPruning", "comment", "compression", "dateFormat", "delimiter", "emptyValue",
        "enableDateTimeParsingFallback", "encoding", "enforceSchema", "escape", "escapeQuotes",
        "extension", "header", "ignoreLeadingWhiteSpace", "ignoreTrailingWhiteSpace", "inferSchema",
        "inputBufferSize", "lineSep", "locale", "maxCharsPerColumn", "maxColumns", "mode",
        "multiLine", "nanValue", "negativeInf", "nullValue", "positiveInf", "preferDate", "quote",
        "quoteAll", "samplingRatio", "sep", "singleVariantColumn", "timeFormat", "timeZone",
        "timestampFormat", "timestampNTZFormat", "unescapedQuoteHandling",
    ),
    "json": (
        *OF_FILES,
        "allowBackslashEscapingAnyCharacter", "allowComments", "allowNonNumericNumbers",
        "allowNumericLeadingZeros", "allowSingleQuotes", "allowUnquotedControlChars",
        "allowUnquotedFieldNames", "charset", "columnNameOfCorruptRecord", "compression",
        "dateFormat", "dropFieldIfAllNull", "enableDateTimeParsingFallback", "encoding",
        "ignoreNullFields", "inferTimestamp", "lineSep", "locale", "mode", "multiLine",
        "prefersDecimal", "pretty", "primitivesAsString", "samplingRatio", "singleVariantColumn",
        "sortKeys", "timeFormat", "timeZone", "timestampFormat", "timestampNTZFormat",
        "useUnsafeRow", "writeNonAsciiCharacterAsCodePoint",
    ),
    "parquet": (
        *OF_FILES,
        "compression", "datetimeRebaseMode", "int96RebaseMode", "mergeSchema",
        "parquet.compression",
    ),
    "delta": (
        "timestampAsOf", "versionAsOf",
    ),
}
# fmt: on
"""Format -> its reader's options, in which upper and lower case are the same."""
