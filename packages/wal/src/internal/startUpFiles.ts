/**
 * Reads every file that a start looks at, whichever log it is asked for, except for what is in segments and capsules; and
 * decides nothing: that is for `StartUp.ts`, `ParallelStartUp.ts` and `NativeStartUp.ts`.
 *
 * @internal
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import {
  type CommitSeq,
  defaultPageSize,
  type ObjectId,
  type PageSize,
  pageSizes,
  toCommitSeq
} from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { directoryOf, isAnyTemporaryName, isTemporaryName, nameOf, readSmallFile } from "../AtomicFile.ts"
import { capsulesDirectory, idOfCapsuleName } from "../CapsuleFormat.ts"
import { type CertificateScan, certificatesPath, type ScannedCertificate } from "../CertificateFormat.ts"
import { readCertificateLog } from "../CertificateLog.ts"
import { type CheckpointMark, readCheckpointMark } from "../CheckpointMarkFormat.ts"
import * as DatabaseHeaderFormat from "../DatabaseHeaderFormat.ts"
import { journalHeaderBytes, journalPath } from "../JournalFormat.ts"
import type { MarkerUnreadable } from "../MarkerErrors.ts"
import { isGenesis, type Marker, markersDirectory, slotsOf } from "../MarkerFormat.ts"
import { type MarkerDamage, type MarkerScan, scanMarkers } from "../MarkerStore.ts"
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

/** The marker stream of a native log. */
export interface FoundMarkers {
  /** Verified above the checkpoint mark. */
  readonly scan: MarkerScan
  /** Those of commits above the checkpoint mark that count, in their order. */
  readonly live: ReadonlyArray<Marker>
  /** Whether commits are above the mark, or may be, behind damage. */
  readonly hasCommits: boolean
  /** The last sequence that the stream has used up: where it is damaged, the last that it has room for. */
  readonly used: bigint
  /** Damage to records whose commits are in the database file; others above the mark count nonetheless. */
  readonly oldDamage: MarkerDamage | undefined
}

export interface CapsuleFile {
  readonly path: string
  readonly id: ObjectId
}

export interface FoundBeside {
  /** Whether there is anything of a parallel log. */
  readonly hasParallelFiles: boolean
  /** By id. */
  readonly capsules: ReadonlyArray<CapsuleFile>
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
  /** `undefined` when there is no marker segment. */
  readonly markers: FoundMarkers | undefined
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
  const markers = yield* readMarkers(vfs, path, mark.value?.through)
  const journal = yield* readSmallFile(vfs, journalPath(path), journalHeaderBytes)
  const beside = yield* listBeside(vfs, path)
  return { path, database, walBase, wal, mark, certificates, markers, journal, beside }
})

/** The certificates above the checkpoint mark, those of aborted intervals too. */
export const liveCertificates = ({ certificates, mark }: FoundFiles): ReadonlyArray<ScannedCertificate> =>
  certificates?.certificates.filter(({ certificate }) =>
    mark.value === undefined || certificate.high > mark.value.through
  ) ?? []

/** Whether a certificate vouches for commits: then they are not in the database file, if it is live. */
export const hasCommits = ({ certificate }: ScannedCertificate): boolean => !certificate.aborted

/** The last sequence that the mark and the parallel log say is used up; 0 when there was none. */
export const usedByParallel = ({ certificates, mark }: Pick<FoundFiles, "certificates" | "mark">): bigint =>
  max(mark.value?.through ?? 0n, certificates?.certificates.at(-1)?.certificate.high ?? 0n)

/** The last sequence that the mark and the native log say is used up; 0 when there was none. */
export const usedByNative = ({ mark, markers }: FoundFiles): bigint =>
  max(mark.value?.through ?? 0n, markers?.used ?? 0n)

/** The last sequence that a log other than the SQLite WAL has used up; 0 when there was none. */
export const usedByOtherLogs = (found: FoundFiles): bigint => max(usedByParallel(found), usedByNative(found))

const max = (a: bigint, b: bigint) => a > b ? a : b

/** Without a log the header of the file is the newest word; the mark stands in for the header of a raw page store. */
export const pagesOfFile = ({ database, mark }: FoundFiles): number =>
  database.header === undefined
    ? mark.value?.databasePages ?? 0
    : DatabaseHeaderFormat.databasePagesOf(database.header, database.fileBytes)

/** Whether the header of the database says that its newest commits are in a log of Tidemark's own. */
export const saysTidemarkLog = ({ database: { header } }: FoundFiles): boolean =>
  header !== undefined && DatabaseHeaderFormat.isTidemarkLog(header)

/**
 * Which of Tidemark's own logs the database is in the middle of: the one with commits above the mark, else the one that
 * has left files. Where both have, the mark says which was the last to be checkpointed; without one it is the parallel
 * log, whose certificates cannot be told from those of a start that has not committed yet.
 */
export const ownLog = (found: FoundFiles): OtherLogKind => {
  const { beside, mark, markers } = found
  if (liveCertificates(found).some(hasCommits)) return "parallel"
  if (markers?.hasCommits === true) return "native"
  if (beside.hasParallelFiles && markers !== undefined) return mark.value?.kind ?? "parallel"
  if (beside.hasParallelFiles) return "parallel"
  return markers === undefined ? "unknown" : "native"
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

/** A stream that another process repairs between two looks at it is looked at once more. */
const readMarkers = (
  vfs: Vfs["Service"],
  path: string,
  through: CommitSeq = toCommitSeq(0n)
): Effect.Effect<FoundMarkers | undefined, VfsError> =>
  lookAtMarkers(vfs, path, through).pipe(
    Effect.retry({ times: 1, while: ({ _tag }) => _tag === "MarkerUnreadable" }),
    // What reads one way now and another way then is not what the disk has.
    Effect.catchTag("MarkerUnreadable", (cause) =>
      Effect.fail(new VfsError({ operation: "read", path: cause.path, code: "EIO", cause })))
  )

const lookAtMarkers = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  path: string,
  through: CommitSeq
): Effect.fn.Return<FoundMarkers | undefined, VfsError | MarkerUnreadable> {
  const verify = (from: bigint) => scanMarkers(vfs, path, { from: toCommitSeq(from) })
  let scan = yield* verify(through + 1n)
  if (scan.segments.length === 0) return undefined
  const isBehind = scan.highest !== undefined && scan.highest > through
  let oldDamage: MarkerDamage | undefined
  if (scan.damage !== undefined && isBehind && seqOf(scan, scan.damage) <= through) {
    // The record that the first live one names is damaged. Its commit is in the database file: that nothing can be held
    // against it makes the live ones no less whole.
    const again = yield* verify(through + 2n)
    if (again.damage === undefined || seqOf(again, again.damage) > through) {
      oldDamage = scan.damage
      scan = again
    }
  }
  const live: Array<Marker> = []
  yield* scan.visit(toCommitSeq(through + 1n), (marker) => {
    if (!isGenesis(marker)) live.push(marker)
  })
  const { damage, highest, last } = scan
  return {
    scan,
    live,
    hasCommits: live.length > 0 || (damage !== undefined && isBehind),
    used: (damage === undefined ? last?.seq : highest) ?? 0n,
    oldDamage
  }
})

/** The sequence of the slot in which damage begins; of the first slot, when it is the header. */
const seqOf = ({ segments }: MarkerScan, { offset, path }: MarkerDamage): bigint => {
  const start = segments.find((segment) => segment.path === path)?.start ?? 0n
  return start + BigInt(slotsOf(offset).completeRecords)
}

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
  const markerNames = yield* listIfThere(vfs, markersDirectory(path))
  const capsuleNames = yield* listIfThere(vfs, capsulesDirectory(path))
  const spillDirectory = `${path}.fsqlite-tmp`
  const spillNames = yield* listIfThere(vfs, spillDirectory)
  const certificates = nameOf(certificatesPath(path))
  const segments = siblings.flatMap((sibling) => {
    const epoch = epochOfSegmentName(name, sibling)
    return epoch === undefined ? [] : [{ path: segmentPath(path, epoch), epoch }]
  }).sort((a, b) => a.epoch < b.epoch ? -1 : 1)
  return {
    hasParallelFiles: segments.length > 0 || siblings.includes(certificates),
    capsules: capsuleNames.flatMap((capsule) => {
      const id = idOfCapsuleName(capsule)
      return id === undefined ? [] : [{ path: `${capsulesDirectory(path)}/${capsule}`, id }]
    }),
    segments,
    spills: spillNames.filter((spill) => /^txn-\d+-\d+\.spill$/.test(spill)).map((spill) =>
      `${spillDirectory}/${spill}`
    ),
    temporaries: [
      ...temporariesOf(side, sideNames),
      ...temporariesOf(markersDirectory(path), markerNames),
      ...temporariesOf(capsulesDirectory(path), capsuleNames),
      // The directory of the database belongs to others too: only replacements of its own files are ours.
      ...siblings.filter((sibling) =>
        isTemporarySegmentName(name, sibling) ||
        [name, `${name}-wal`, certificates].some((own) => isTemporaryName(sibling, own))
      ).map((temporary) => `${directory}/${temporary}`)
    ]
  }
})

/** In a directory that is Tidemark's alone. */
const temporariesOf = (directory: string, names: ReadonlyArray<string>): ReadonlyArray<string> =>
  names.filter(isAnyTemporaryName).map((temporary) => `${directory}/${temporary}`)

const listIfThere = (vfs: Vfs["Service"], directory: string): Effect.Effect<ReadonlyArray<string>, VfsError> =>
  Effect.catchIf(vfs.list(directory), (error) => error.code === "ENOENT", () => Effect.succeed([]))
