/**
 * Opening a database in SQLite WAL mode: locks, examination, refusal or recovery.
 *
 * Invariants
 * 1. Nothing on the disk changes before every refusal has had its turn.
 * 2. What recovery found is made durable before anything is built on it: contents, sizes and names. A process that was
 *    killed has left them to the page cache, and the next power loss would take them from under commits that were
 *    acknowledged since. The log is written back for that: after a failed sync a further sync alone writes nothing.
 * 3. An empty database file beside a log with commits is filled before anything else, page 1 first; none is ever made.
 *    Stock SQLite deletes the log beside an empty file (SWAL-09).
 * 4. Behind the last commit the log holds nothing of this generation: a frame that a crash has left there could
 *    otherwise look like the continuation of one that is written later.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { PageNumber } from "@tidemark/core/Scalars"
import { defaultPageSize, PageSize, pageSizes, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import { FileLock } from "@tidemark/platform/FileLock"
import type { VfsFile } from "@tidemark/platform/Vfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import { directoryOf } from "../AtomicFile.ts"
import * as DatabaseHeaderFormat from "../DatabaseHeaderFormat.ts"
import { lockDatabase, lockSharedMemory } from "../DatabaseLock.ts"
import { DatabaseTruncated } from "../LogErrors.ts"
import type { OpenError, SqliteWalOptions } from "../SqliteWal.ts"
import * as Format from "../SqliteWalFormat.ts"
import type { DatabaseExamination } from "../StartUp.ts"
import { examineDatabase } from "../StartUp.ts"
import { NotADatabase, NotWalMode, PageSizeMismatch } from "../StartUpErrors.ts"
import { sideDirectory } from "../WalBaseFormat.ts"
import { WalIndex } from "../WalIndex.ts"
import { CopyBuffer, copyPages } from "./checkpoint.ts"
import { rewrite } from "./rewrite.ts"
import { WalState, writeWalBase } from "./walState.ts"

/** @internal */
export interface OpenedDatabase {
  readonly databaseFile: VfsFile
  readonly walFile: VfsFile
  readonly examination: DatabaseExamination
  readonly pageSize: PageSize
  readonly state: WalState
}

/** @internal */
export const openDatabase = Effect.fnUntraced(function*(
  options: SqliteWalOptions & { readonly preallocateBytes: number; readonly maxFrames: number }
): Effect.fn.Return<OpenedDatabase, OpenError, Vfs | FileLock | Scope.Scope> {
  const vfs = yield* Vfs
  const fileLock = yield* FileLock
  const { create, database } = options
  const examine = examineDatabase(vfs, database, { acceptLoss: options.acceptLoss ?? false })
  const databaseFile = yield* openDatabaseFile(vfs, database, create === undefined ? undefined : examine)
  yield* lockDatabase(vfs, fileLock, database)

  let examination = yield* examine
  const isToBeMade = create !== undefined && (yield* holdsNoDatabase(databaseFile, examination))
  const isToBeFilled = !isToBeMade && (yield* lacksItsFirstPage(vfs, databaseFile, examination))
  const isToBeConverted = options.convert === true && examination.refusal instanceof NotWalMode
  if (!isToBeConverted) yield* refuse(examination, isToBeMade || isToBeFilled)
  const newPageSize = create?.pageSize ?? defaultPageSize
  if (isToBeMade) yield* refuseOtherPageSize(examination, newPageSize)
  yield* lockSharedMemory(fileLock, database)

  // From here on nobody else is in, nothing stands against it, and the disk may change.
  if (isToBeMade) {
    yield* writeFirstPage(databaseFile, newPageSize)
    examination = yield* examine
    yield* refuse(examination, false)
  }
  if (isToBeConverted) yield* convertToWal(databaseFile)
  for (const path of examination.sweepable) yield* vfs.remove(path)
  const walFile = yield* vfs.open(Format.walPath(database), { access: "readWrite", create: "ifMissing" })
  yield* writeBackPrefix(walFile, examination)
  yield* clearTail(walFile, examination)
  yield* makeDurable(vfs, database, [walFile, databaseFile])

  const { pageSize } = examination
  invariant(pageSize !== undefined, "a database that was not refused has a page size")
  const state = yield* recoverState(options, examination, pageSize, databaseFile, walFile)
  if (isToBeFilled) yield* fillDatabase(databaseFile, walFile, state, pageSize)
  return { databaseFile, examination, pageSize, state, walFile }
})

/**
 * Opens the database file, or makes an empty one. Not beside a log with commits: what belongs in front of them is
 * missing, and an empty file would make stock SQLite delete them.
 */
export const openDatabaseFile = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  examineToCreate: Effect.Effect<Pick<DatabaseExamination, "refusal" | "commits">, VfsError> | undefined
): Effect.fn.Return<VfsFile, OpenError, Scope.Scope> {
  const mayMake = Effect.fnUntraced(function*() {
    if (examineToCreate === undefined || (yield* vfs.identify(database)) !== undefined) return false
    const beside = yield* examineToCreate
    yield* refuse(beside, false)
    return beside.commits === 0
  })
  return yield* vfs.open(database, { access: "readWrite", create: (yield* mayMake()) ? "ifMissing" : "never" })
})

export const refuse = (
  { refusal }: Pick<DatabaseExamination, "refusal">,
  isFirstPageExpected: boolean
): Effect.Effect<void, OpenError> =>
  refusal === undefined || (isFirstPageExpected && refusal instanceof NotADatabase) ? Effect.void : Effect.fail(refusal)

const refuseOtherPageSize = (
  { path, walHeader }: DatabaseExamination,
  pageSize: PageSize
): Effect.Effect<void, PageSizeMismatch> =>
  walHeader === undefined || walHeader.pageSize === pageSize ? Effect.void : Effect.fail(
    new PageSizeMismatch({
      path: Format.walPath(path),
      walPageSize: walHeader.pageSize,
      databasePageSize: pageSize
    })
  )

// ---------------------------------------------------------------------------------------------------------------------
// Page 1
// ---------------------------------------------------------------------------------------------------------------------

/** Whether bytes are what a power loss leaves of `page` when it was on its way into an empty file. */
const isPartOf = (bytes: Uint8Array, page: Uint8Array): boolean =>
  bytes.length <= page.length && bytes.every((byte, at) => byte === 0 || byte === page[at])

/** The whole database file, as far as it is no longer than one page can be. */
const readShortFile = Effect.fnUntraced(function*(
  databaseFile: VfsFile,
  fileBytes: number
): Effect.fn.Return<Uint8Array | undefined, VfsError> {
  if (fileBytes > maxPageBytes) return undefined
  const bytes = new Uint8Array(fileBytes)
  yield* databaseFile.read(bytes, 0)
  return bytes
})

const maxPageBytes = 65_536

/** Whether the database is still to be made: the file is empty, or what wrote its first page was cut short. */
export const holdsNoDatabase = Effect.fnUntraced(function*(
  databaseFile: VfsFile,
  { commits, databaseFileBytes }: Pick<DatabaseExamination, "commits" | "databaseFileBytes">
): Effect.fn.Return<boolean, VfsError> {
  if (commits > 0) return false
  const bytes = yield* readShortFile(databaseFile, databaseFileBytes)
  if (bytes === undefined) return false
  return bytes.length === 0 || pageSizes.some((size) => {
    const page1 = DatabaseHeaderFormat.emptyDatabasePage1(PageSize.make(size))
    const isCutShort = bytes.length < page1.length || bytes.some((byte, at) => byte !== page1[at])
    return isPartOf(bytes, page1) && isCutShort
  })
})

/** Whether the file is empty beside a log that has page 1, or a power loss came while that was put into it. */
const lacksItsFirstPage = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  databaseFile: VfsFile,
  { commits, databaseFileBytes, framePages, path, refusal, walHeader }: DatabaseExamination
): Effect.fn.Return<boolean, VfsError> {
  const frame = framePages.lastIndexOf(1)
  if (commits === 0 || walHeader === undefined || frame < 0) return false
  if (databaseFileBytes === 0) return true
  if (!(refusal instanceof NotADatabase)) return false
  const bytes = yield* readShortFile(databaseFile, databaseFileBytes)
  if (bytes === undefined) return false
  const page1 = new Uint8Array(walHeader.pageSize)
  yield* Effect.scoped(Effect.flatMap(
    vfs.open(Format.walPath(path), { access: "read" }),
    (file) => file.read(page1, Format.frameOffset(frame, walHeader.pageSize) + Format.frameHeaderBytes)
  ))
  return isPartOf(bytes, page1)
})

/** Makes page 1 of a new database; its name is synced with everything else. */
export const writeFirstPage = Effect.fnUntraced(function*(
  databaseFile: VfsFile,
  pageSize: PageSize
): Effect.fn.Return<void, VfsError> {
  if ((yield* databaseFile.size) > pageSize) yield* databaseFile.truncate(pageSize)
  yield* databaseFile.write([DatabaseHeaderFormat.emptyDatabasePage1(pageSize)], 0)
  yield* databaseFile.syncFull
})

/** Copies the log into an empty file, page 1 before all others: with it the log is safe from stock SQLite. */
const fillDatabase = Effect.fnUntraced(function*(
  databaseFile: VfsFile,
  walFile: VfsFile,
  state: WalState,
  pageSize: PageSize
): Effect.fn.Return<void, VfsError | DatabaseTruncated> {
  const { commitSeq, databasePages } = state.published
  const frame = state.index.find(toPageNumber(1), commitSeq)
  const page1 = new Uint8Array(pageSize)
  const offset = Format.frameOffset(frame, pageSize) + Format.frameHeaderBytes
  if ((yield* walFile.read(page1, offset)) < pageSize) {
    return yield* new DatabaseTruncated({ path: walFile.path, page: toPageNumber(1), offset })
  }
  yield* databaseFile.write([page1], 0)
  yield* databaseFile.syncFull
  yield* copyPages({
    walFile,
    databaseFile,
    pageSize,
    index: state.index,
    fromFrame: 0,
    bound: commitSeq,
    databasePages,
    buffer: new CopyBuffer()
  })
})

const convertToWal = Effect.fnUntraced(function*(databaseFile: VfsFile): Effect.fn.Return<void, VfsError> {
  const header = new Uint8Array(DatabaseHeaderFormat.databaseHeaderBytes)
  yield* databaseFile.read(header, 0)
  DatabaseHeaderFormat.setVersions(header, 2)
  yield* databaseFile.write([header], 0)
  yield* databaseFile.syncData
})

// ---------------------------------------------------------------------------------------------------------------------
// The log
// ---------------------------------------------------------------------------------------------------------------------

/** Bytes of zeros that are written at a time. */
const clearChunkBytes = 1024 * 1024

/** The header and the frames that count, for the sync that follows (invariant 2). */
const writeBackPrefix = (
  walFile: VfsFile,
  { validFrames, walHeader }: DatabaseExamination
): Effect.Effect<void, VfsError> =>
  walHeader === undefined ? Effect.void : rewrite(walFile, 0, Format.frameOffset(validFrames, walHeader.pageSize))

/** Overwrites what this generation has left behind its last commit (invariant 4). */
const clearTail = Effect.fnUntraced(function*(
  walFile: VfsFile,
  { tornTailBytes, validFrames, walHeader }: DatabaseExamination
): Effect.fn.Return<void, VfsError> {
  if (walHeader === undefined || tornTailBytes === 0) return
  const start = Format.frameOffset(validFrames, walHeader.pageSize)
  const zeros = new Uint8Array(Math.min(clearChunkBytes, tornTailBytes))
  for (let cleared = 0; cleared < tornTailBytes; cleared += zeros.length) {
    yield* walFile.write([zeros.subarray(0, Math.min(zeros.length, tornTailBytes - cleared))], start + cleared)
  }
})

/** Invariant 2. The side directory's own name is in the directory of the database. */
export const makeDurable = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  files: ReadonlyArray<VfsFile>
): Effect.fn.Return<void, VfsError> {
  for (const file of files) yield* file.syncFull
  const side = sideDirectory(database)
  if ((yield* vfs.identify(side)) !== undefined) yield* vfs.syncDirectory(side)
  yield* vfs.syncDirectory(directoryOf(database))
})

/** @internal */
export const randomU32 = Random.nextIntBetween(0, 0xffffffff)

/** Turns what was found into the state to go on from. */
const recoverState = Effect.fnUntraced(function*(
  options: { readonly database: string; readonly preallocateBytes: number; readonly maxFrames: number },
  found: DatabaseExamination,
  pageSize: PageSize,
  databaseFile: VfsFile,
  walFile: VfsFile
): Effect.fn.Return<WalState, VfsError, Vfs> {
  const vfs = yield* Vfs
  const { database } = options
  const onDisk = found.walHeader
  // The frames of the generation before are all in the database file: the crash came between wal-base and the header.
  // A generation without commits is not gone on with when another log has committed since it began.
  const goesOn = onDisk !== undefined && found.tipSource !== "previous-generation" &&
    (found.tipSource !== "checkpoint-mark" || found.commits > 0)
  const previousSalts = { salt1: onDisk?.salt1 ?? 0, salt2: onDisk?.salt2 ?? 0 }
  const header: Format.WalHeader = goesOn ? onDisk : {
    checksumWords: "littleEndian",
    pageSize,
    checkpointSeq: onDisk === undefined ? 0 : (onDisk.checkpointSeq + 1) >>> 0,
    salt1: onDisk === undefined ? yield* randomU32 : (onDisk.salt1 + 1) >>> 0,
    salt2: yield* randomU32
  }
  const index = goesOn ? indexOf(found) : new WalIndex(found.tip)
  // Begun by somebody else, or begun by us and not counted yet: from now on its sequences are written down. There is no
  // generation of ours before it that could still be on the disk, so both pairs of salts are its own.
  if (goesOn && (found.tipSource !== "wal-base" || found.walBase?.sealed === true)) {
    yield* writeWalBase(vfs, database, { sealed: false, header, previousSalts, base: index.base })
  }
  return new WalState({
    vfs,
    database,
    pageSize,
    databaseFile,
    walFile,
    preallocateBytes: options.preallocateBytes,
    maxFrames: options.maxFrames,
    header,
    headerIsOnDisk: goesOn,
    chain: goesOn && found.chain !== undefined
      ? { ...found.chain }
      : Format.chainFromHeader(Format.encodeHeader(header)),
    previousSalts,
    index,
    databasePages: found.databasePages,
    walFileBytes: yield* walFile.size
  })
})

const indexOf = ({ commits, databasePages, frameCommit, framePages, tip }: DatabaseExamination): WalIndex => {
  const index = new WalIndex(toCommitSeq(tip - BigInt(commits)))
  const pagesOf: Array<Array<PageNumber>> = Array.from({ length: commits }, () => [])
  framePages.forEach((page, frame) => {
    pagesOf[(frameCommit[frame] ?? 0) - 1]?.push(toPageNumber(page))
  })
  // Only the size after the last commit can be asked for: no reader is older than this process.
  for (const pages of pagesOf) index.addCommit(pages, databasePages)
  return index
}
