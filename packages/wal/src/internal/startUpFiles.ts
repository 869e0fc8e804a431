/**
 * Reads every file that a start looks at, whichever log it is asked for, except for what is in segments; and decides
 * nothing: that is for `StartUp.ts` and `ParallelStartUp.ts`.
 *
 * @internal
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { defaultPageSize, type PageSize, pageSizes } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { directoryOf, isAnyTemporaryName, isTemporaryName, nameOf, readSmallFile } from "../AtomicFile.ts"
import { type CertificateScan, certificatesPath, type ScannedCertificate } from "../CertificateFormat.ts"
import { readCertificateLog } from "../CertificateLog.ts"
import { type CheckpointMark, readCheckpointMark } from "../CheckpointMarkFormat.ts"
import * as DatabaseHeaderFormat from "../DatabaseHeaderFormat.ts"
import { journalHeaderBytes, journalPath } from "../JournalFormat.ts"
import { epochOfSegmentName, isTemporarySegmentName, segmentPath } from "../SegmentFormat.ts"
import type { SegmentFile } from "../SegmentStore.ts"
import { decodeHeader, type WalHeader, walHeaderBytes, walPath } from "../SqliteWalFormat.ts"
import type { OtherLogKind } from "../StartUpErrors.ts"
import * as WalBaseFormat from "../WalBaseFormat.ts"
import { carriesSalts, forEachChunk, scanWal, type WalScan } from "../WalScan.ts"

export interface FoundDatabase {
  readonly exists: boolean
  readonly fileBytes: number
  readonly header: DatabaseHeaderFormat.DatabaseHeader | undefined
  readonly issue: FormatIssue | undefined
}

export interface FoundWal {
  readonly fileBytes: number | undefined
  readonly header: WalHeader | undefined
  readonly scan: WalScan | undefined
  /** Why there is no header although there is a file. */
  readonly issue: FormatIssue | undefined
  /** Whether a file without a readable header holds nothing but zeros. */
  readonly isBlank: boolean
  /** Whether a frame carries the salts of the base although the header cannot be read. */
  readonly carriesBaseSalts: boolean
}

export interface FoundBeside {
  /** Which log of Tidemark's own has left files. */
  readonly otherLog: OtherLogKind
  /** Whether there are markers of a native log. */
  readonly hasMarkers: boolean
  /** By epoch. */
  readonly segments: ReadonlyArray<SegmentFile>
  readonly spills: ReadonlyArray<string>
  readonly temporaries: ReadonlyArray<string>
}

export interface FoundFiles {
  readonly path: string
  readonly database: FoundDatabase
  readonly walBase: { readonly value: WalBaseFormat.WalBase | undefined; readonly issue: FormatIssue | undefined }
  readonly wal: FoundWal
  readonly mark: { readonly value: CheckpointMark | undefined; readonly issue: FormatIssue | undefined }
  /** `undefined` when there is no certificate log. */
  readonly certificates: CertificateScan | undefined
  readonly journal: Uint8Array | undefined
  readonly beside: FoundBeside
}

/** Everything that a start looks at. */
export const readFiles = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  path: string
): Effect.fn.Return<FoundFiles, VfsError> {
  const database = yield* readDatabase(vfs, path)
  const walBase = yield* readWalBase(vfs, path)
  const wal = yield* readWal(vfs, path, database.header, walBase.value)
  const mark = yield* readMark(vfs, path)
  const certificates = yield* readCertificateLog(vfs, path)
  const journal = yield* readSmallFile(vfs, journalPath(path), journalHeaderBytes)
  return { path, database, walBase, wal, mark, certificates, journal, beside: yield* listBeside(vfs, path) }
})

/** The certificates above the checkpoint mark, those of aborted intervals too. */
export const liveCertificates = ({ certificates, mark }: FoundFiles): ReadonlyArray<ScannedCertificate> =>
  certificates?.certificates.filter(({ certificate }) =>
    mark.value === undefined || certificate.high > mark.value.through
  ) ?? []

/** Whether a certificate vouches for commits: then they are not in the database file, if it is live. */
export const hasCommits = ({ certificate }: ScannedCertificate): boolean => !certificate.aborted

/** The last sequence that a log other than the SQLite WAL has used up; 0 when there was none. */
export const usedByOtherLogs = ({ certificates, mark }: FoundFiles): bigint => {
  const through = mark.value?.through ?? 0n
  const high = certificates?.certificates.at(-1)?.certificate.high ?? 0n
  return high > through ? high : through
}

const readDatabase = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  path: string
): Effect.fn.Return<FoundDatabase, VfsError> {
  const identity = yield* vfs.identify(path)
  const fileBytes = identity?.size ?? 0
  const bytes = yield* readSmallFile(vfs, path, DatabaseHeaderFormat.databaseHeaderBytes)
  // An empty file is an empty database, to SQLite too.
  if (bytes === undefined || bytes.length === 0) {
    return { exists: bytes !== undefined, fileBytes: 0, header: undefined, issue: undefined }
  }
  return Result.match(DatabaseHeaderFormat.decode(bytes), {
    onSuccess: (header) => ({ exists: true, fileBytes, header, issue: undefined }),
    onFailure: (issue) => ({ exists: true, fileBytes, header: undefined, issue })
  })
})

const readWalBase = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  path: string
): Effect.fn.Return<FoundFiles["walBase"], VfsError> {
  const bytes = yield* readSmallFile(vfs, WalBaseFormat.walBasePath(path), WalBaseFormat.walBaseBytes + 1)
  if (bytes === undefined) return { value: undefined, issue: undefined }
  return Result.match(WalBaseFormat.decode(bytes), {
    onSuccess: (value) => ({ value, issue: undefined }),
    onFailure: (issue) => ({ value: undefined, issue })
  })
})

const readMark = (vfs: Vfs["Service"], path: string): Effect.Effect<FoundFiles["mark"], VfsError> =>
  Effect.map(
    readCheckpointMark(vfs, path),
    (decoded) =>
      decoded === undefined ? { value: undefined, issue: undefined } : Result.match(decoded, {
        onSuccess: (value) => ({ value, issue: undefined }),
        onFailure: (issue) => ({ value: undefined, issue })
      })
  )

const noWal: FoundWal = {
  fileBytes: undefined,
  header: undefined,
  scan: undefined,
  issue: undefined,
  isBlank: true,
  carriesBaseSalts: false
}

const readWal = (
  vfs: Vfs["Service"],
  path: string,
  databaseHeader: DatabaseHeaderFormat.DatabaseHeader | undefined,
  walBase: WalBaseFormat.WalBase | undefined
): Effect.Effect<FoundWal, VfsError> =>
  Effect.gen(function*() {
    const file = yield* vfs.open(walPath(path), { access: "read" })
    const fileBytes = yield* file.size
    const headerBytes = new Uint8Array(Math.min(walHeaderBytes, fileBytes))
    const length = yield* file.read(headerBytes, 0)
    const decoded = decodeHeader(headerBytes.subarray(0, length))
    if (Result.isSuccess(decoded)) {
      const header = decoded.success
      const scan = yield* scanWal(file, fileBytes, header, { s0: header.checksum1, s1: header.checksum2 })
      return { ...noWal, fileBytes, header, scan }
    }
    let isBlank = isZero(headerBytes)
    if (isBlank) {
      // Where the slots begin and end does not matter here: any page size makes chunks of the whole file.
      yield* forEachChunk(file, fileBytes, defaultPageSize, (chunk) => {
        isBlank = isZero(chunk)
        return isBlank
      })
    }
    const carriesBaseSalts = walBase !== undefined &&
      (yield* hasFramesOf(file, fileBytes, databaseHeader?.pageSize, walBase))
    return { ...noWal, fileBytes, issue: decoded.failure, isBlank, carriesBaseSalts }
  }).pipe(
    Effect.scoped,
    Effect.catchIf(
      (error) => error.operation === "open" && error.code === "ENOENT",
      () => Effect.succeed(noWal)
    )
  )

const isZero = (bytes: Uint8Array) => bytes.every((byte) => byte === 0)

/** Without a readable database every page size is tried: where the slots are is not known otherwise. */
const hasFramesOf = Effect.fnUntraced(function*(
  file: VfsFile,
  fileBytes: number,
  pageSize: PageSize | undefined,
  walBase: WalBaseFormat.WalBase
): Effect.fn.Return<boolean, VfsError> {
  for (const size of pageSize === undefined ? pageSizes : [pageSize]) {
    if (yield* carriesSalts(file, fileBytes, size, walBase)) return true
  }
  return false
})

const listBeside = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  path: string
): Effect.fn.Return<FoundBeside, VfsError> {
  const directory = directoryOf(path)
  const name = nameOf(path)
  const side = WalBaseFormat.sideDirectory(path)
  const siblings = yield* listIfThere(vfs, directory)
  const sideNames = yield* listIfThere(vfs, side)
  const markers = sideNames.includes("markers") ? yield* listIfThere(vfs, `${side}/markers`) : []
  const spillDirectory = `${path}.fsqlite-tmp`
  const spillNames = yield* listIfThere(vfs, spillDirectory)
  const certificates = nameOf(certificatesPath(path))
  const segments = siblings.flatMap((sibling) => {
    const epoch = epochOfSegmentName(name, sibling)
    return epoch === undefined ? [] : [{ path: segmentPath(path, epoch), epoch }]
  }).sort((a, b) => a.epoch < b.epoch ? -1 : 1)
  const isParallel = segments.length > 0 || siblings.includes(certificates)
  return {
    otherLog: isParallel ? "parallel" : markers.length > 0 ? "native" : "unknown",
    hasMarkers: markers.length > 0,
    segments,
    spills: spillNames.filter((spill) => /^txn-\d+-\d+\.spill$/.test(spill)).map((spill) =>
      `${spillDirectory}/${spill}`
    ),
    temporaries: [
      ...sideNames.filter(isAnyTemporaryName).map((temporary) => `${side}/${temporary}`),
      // The directory of the database belongs to others too: only replacements of its own files are ours.
      ...siblings.filter((sibling) =>
        isTemporarySegmentName(name, sibling) ||
        [name, `${name}-wal`, certificates].some((own) => isTemporaryName(sibling, own))
      ).map((temporary) => `${directory}/${temporary}`)
    ]
  }
})

const listIfThere = (vfs: Vfs["Service"], directory: string): Effect.Effect<ReadonlyArray<string>, VfsError> =>
  Effect.catchIf(vfs.list(directory), (error) => error.code === "ENOENT", () => Effect.succeed([]))
