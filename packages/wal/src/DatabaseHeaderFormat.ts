/**
 * The first 100 bytes of a SQLite database file, as far as its public file format describes them, and the first page of
 * an empty database. Big-endian.
 *
 * **Details**
 *
 * Bytes 18 and 19 say how the newest commits have to be looked for: 1 = in the file alone (with a rollback journal),
 * 2 = in a `-wal` beside it, 3 = in one of Tidemark's own logs, which makes stock SQLite refuse the file
 * (section 2.2 of `formats.md`).
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import { PageSize } from "@tidemark/core/Scalars"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/**
 * Bytes of the header, at the start of page 1.
 *
 * @category constants
 * @since 0.1.0
 */
export const databaseHeaderBytes = 100

/** `SQLite format 3` and a NUL, spelled as bytes so that no text encoder is involved. */
const magic = Uint8Array.of(83, 81, 76, 105, 116, 101, 32, 102, 111, 114, 109, 97, 116, 32, 51, 0)

const offsets = {
  pageSize: 16,
  writeVersion: 18,
  readVersion: 19,
  reservedBytes: 20,
  maxPayloadFraction: 21,
  minPayloadFraction: 22,
  leafPayloadFraction: 23,
  changeCounter: 24,
  databasePages: 28,
  firstFreelistPage: 32,
  freelistPages: 36,
  schemaCookie: 40,
  schemaFormat: 44,
  defaultCachePages: 48,
  largestRootPage: 52,
  textEncoding: 56,
  userVersion: 60,
  incrementalVacuum: 64,
  applicationId: 68,
  versionValidFor: 92,
  sqliteVersion: 96
} as const

const U8 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xff }))
const U32 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))

/**
 * What the header of a database file says. Every count is a u32.
 *
 * @category models
 * @since 0.1.0
 */
export const DatabaseHeader = Schema.Struct({
  pageSize: Schema.toType(PageSize),
  /** Byte 18: 1 rollback journal, 2 WAL, 3 a log of Tidemark's. */
  writeVersion: U8,
  /** Byte 19: the same for readers. */
  readVersion: U8,
  /** Bytes at the end of each page that SQLite leaves alone. */
  reservedBytes: U8,
  /** Grows with every transaction that is written without a WAL. */
  changeCounter: U32,
  /** Pages of the database; means something only when `changeCounter` equals `versionValidFor`. */
  databasePages: U32,
  firstFreelistPage: U32,
  freelistPages: U32,
  schemaCookie: U32,
  schemaFormat: U32,
  defaultCachePages: U32,
  /** Not 0 in an auto-vacuum or incremental-vacuum database. */
  largestRootPage: U32,
  /** 1 UTF-8, 2 UTF-16 little-endian, 3 UTF-16 big-endian, 0 not decided yet. */
  textEncoding: U32,
  userVersion: U32,
  incrementalVacuum: U32,
  applicationId: U32,
  /** The change counter at which `databasePages` and `sqliteVersion` were written. */
  versionValidFor: U32,
  /** Version number of the SQLite library that wrote last. */
  sqliteVersion: U32
})
export type DatabaseHeader = typeof DatabaseHeader.Type

const isPageSize = Schema.is(PageSize)

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** SQLite's 16-bit field cannot hold 65536 and says 1 instead. */
const toStoredPageSize = (pageSize: number) => pageSize === 65536 ? 1 : pageSize
const fromStoredPageSize = (stored: number) => stored === 1 ? 65536 : stored

const issue = (code: string, field: string, offset: number, found: string, expected: string) =>
  Result.fail(new FormatIssue({ format: "SQLite database header", code, field, offset, found, expected }))

/**
 * Reads the header of a database file from its first 100 bytes (what follows them is ignored).
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `BadMagic`, `InvalidPageSize`. The header carries no checksum: what is
 * neither the magic nor the page size is answered as it stands there.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<DatabaseHeader, FormatIssue> => {
  if (bytes.length < databaseHeaderBytes) {
    return issue("TooShort", "length", 0, `${bytes.length} bytes`, `${databaseHeaderBytes} bytes`)
  }
  const wrongAt = magic.findIndex((byte, index) => bytes[index] !== byte)
  if (wrongAt >= 0) {
    return issue("BadMagic", "magic", wrongAt, `byte ${bytes[wrongAt]}`, `byte ${magic[wrongAt]}`)
  }
  const view = viewOf(bytes)
  const pageSize = fromStoredPageSize(view.getUint16(offsets.pageSize))
  if (!isPageSize(pageSize)) {
    return issue(
      "InvalidPageSize",
      "page size",
      offsets.pageSize,
      `${pageSize}`,
      "a power of two from 512 to 32768, or 1"
    )
  }
  return Result.succeed({
    pageSize,
    writeVersion: view.getUint8(offsets.writeVersion),
    readVersion: view.getUint8(offsets.readVersion),
    reservedBytes: view.getUint8(offsets.reservedBytes),
    changeCounter: view.getUint32(offsets.changeCounter),
    databasePages: view.getUint32(offsets.databasePages),
    firstFreelistPage: view.getUint32(offsets.firstFreelistPage),
    freelistPages: view.getUint32(offsets.freelistPages),
    schemaCookie: view.getUint32(offsets.schemaCookie),
    schemaFormat: view.getUint32(offsets.schemaFormat),
    defaultCachePages: view.getUint32(offsets.defaultCachePages),
    largestRootPage: view.getUint32(offsets.largestRootPage),
    textEncoding: view.getUint32(offsets.textEncoding),
    userVersion: view.getUint32(offsets.userVersion),
    incrementalVacuum: view.getUint32(offsets.incrementalVacuum),
    applicationId: view.getUint32(offsets.applicationId),
    versionValidFor: view.getUint32(offsets.versionValidFor),
    sqliteVersion: view.getUint32(offsets.sqliteVersion)
  })
}

/**
 * The 100 bytes of a database header.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (header: DatabaseHeader): Uint8Array => {
  const bytes = new Uint8Array(databaseHeaderBytes)
  const view = viewOf(bytes)
  bytes.set(magic)
  view.setUint16(offsets.pageSize, toStoredPageSize(header.pageSize))
  view.setUint8(offsets.writeVersion, header.writeVersion)
  view.setUint8(offsets.readVersion, header.readVersion)
  view.setUint8(offsets.reservedBytes, header.reservedBytes)
  // The format fixes these three; SQLite refuses a file with other values.
  view.setUint8(offsets.maxPayloadFraction, 64)
  view.setUint8(offsets.minPayloadFraction, 32)
  view.setUint8(offsets.leafPayloadFraction, 32)
  view.setUint32(offsets.changeCounter, header.changeCounter)
  view.setUint32(offsets.databasePages, header.databasePages)
  view.setUint32(offsets.firstFreelistPage, header.firstFreelistPage)
  view.setUint32(offsets.freelistPages, header.freelistPages)
  view.setUint32(offsets.schemaCookie, header.schemaCookie)
  view.setUint32(offsets.schemaFormat, header.schemaFormat)
  view.setUint32(offsets.defaultCachePages, header.defaultCachePages)
  view.setUint32(offsets.largestRootPage, header.largestRootPage)
  view.setUint32(offsets.textEncoding, header.textEncoding)
  view.setUint32(offsets.userVersion, header.userVersion)
  view.setUint32(offsets.incrementalVacuum, header.incrementalVacuum)
  view.setUint32(offsets.applicationId, header.applicationId)
  view.setUint32(offsets.versionValidFor, header.versionValidFor)
  view.setUint32(offsets.sqliteVersion, header.sqliteVersion)
  return bytes
}

/**
 * The header of a database file as a codec. Encoding writes the reserved and fixed fields as the format wants them.
 *
 * @category schemas
 * @since 0.1.0
 */
export const DatabaseHeaderFromBytes: Schema.Codec<DatabaseHeader, Uint8Array> = toCodec<DatabaseHeader>(
  DatabaseHeader,
  { decode, encode }
)

/**
 * Whether the header says that the newest commits are in a `-wal` (SWAL-09).
 *
 * @category predicates
 * @since 0.1.0
 */
export const isWal = (header: DatabaseHeader): boolean => header.writeVersion === 2 && header.readVersion === 2

/**
 * Whether the header says that the newest commits are in a parallel or native log (section 2.2 of `formats.md`).
 *
 * @category predicates
 * @since 0.1.0
 */
export const isTidemarkLog = (header: DatabaseHeader): boolean => header.writeVersion === 3 || header.readVersion === 3

/**
 * The size of the database as SQLite decides it when no WAL says otherwise: the header's count when it is not 0 and was
 * written by the last change, else what the file holds, a partial last page included.
 *
 * @category sizes
 * @since 0.1.0
 */
export const databasePagesOf = (header: DatabaseHeader, databaseFileBytes: number): number =>
  header.databasePages !== 0 && header.changeCounter === header.versionValidFor
    ? header.databasePages
    : Math.ceil(databaseFileBytes / header.pageSize)

/**
 * Sets bytes 18 and 19 of a first page, in place.
 *
 * @category encoding
 * @since 0.1.0
 */
export const setVersions = (page1: Uint8Array, version: 1 | 2 | 3): void => {
  invariant(page1.length >= databaseHeaderBytes, "the versions are set in a whole first page")
  page1[offsets.writeVersion] = version
  page1[offsets.readVersion] = version
}

/**
 * Whether a first page begins like a database. One of a raw page store need not.
 *
 * @category predicates
 * @since 0.1.0
 */
export const hasMagic = (page1: Uint8Array): boolean => magic.every((byte, index) => page1[index] === byte)

/**
 * Sets the size of the database in a first page, in place. SQLite believes it, rather than the size of the file, when
 * the last change of the page wrote it ({@link databasePagesOf}).
 *
 * @category encoding
 * @since 0.1.0
 */
export const setDatabasePages = (page1: Uint8Array, databasePages: number): void => {
  invariant(page1.length >= databaseHeaderBytes, "the size is set in a whole first page")
  viewOf(page1).setUint32(offsets.databasePages, databasePages)
}

/** The header of a b-tree page, which follows the database header on page 1. */
const btree = {
  type: 0,
  firstFreeblock: 1,
  cells: 3,
  cellContentStart: 5,
  fragmentedBytes: 7,
  leafTable: 0x0d
} as const

/**
 * The first page of an empty database in WAL mode: its header, and a schema table without rows.
 *
 * **Details**
 *
 * UTF-8, schema format 4 (what SQLite itself gives a new database), no reserved bytes, one page. The version of the
 * library that wrote last is given as 3.7.0, the first one that knows WAL mode.
 *
 * @category constructors
 * @since 0.1.0
 */
export const emptyDatabasePage1 = (pageSize: PageSize): Uint8Array => {
  const page = new Uint8Array(pageSize)
  page.set(encode({
    pageSize,
    writeVersion: 2,
    readVersion: 2,
    reservedBytes: 0,
    changeCounter: 1,
    databasePages: 1,
    firstFreelistPage: 0,
    freelistPages: 0,
    schemaCookie: 0,
    schemaFormat: 4,
    defaultCachePages: 0,
    largestRootPage: 0,
    textEncoding: 1,
    userVersion: 0,
    incrementalVacuum: 0,
    applicationId: 0,
    versionValidFor: 1,
    sqliteVersion: 3007000
  }))
  const view = viewOf(page)
  view.setUint8(databaseHeaderBytes + btree.type, btree.leafTable)
  view.setUint16(databaseHeaderBytes + btree.firstFreeblock, 0)
  view.setUint16(databaseHeaderBytes + btree.cells, 0)
  // Cells grow down from the end of the page; 65536 does not fit into 16 bits and is written as 0.
  view.setUint16(databaseHeaderBytes + btree.cellContentStart, pageSize % 65536)
  view.setUint8(databaseHeaderBytes + btree.fragmentedBytes, 0)
  return page
}
