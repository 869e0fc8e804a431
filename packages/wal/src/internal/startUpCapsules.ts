/**
 * Reads the capsules of a native log for a start: those that are to be replayed, and those that are left over.
 *
 * One capsule is in memory at a time; what is kept of it are two numbers per page.
 */
import type { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import { objectIdToHex, toCommitSeq } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { readSmallFile } from "../AtomicFile.ts"
import {
  type Capsule,
  capsuleBytes,
  capsuleHeaderBytes,
  capsulePath,
  decodeHeader,
  imageOffset
} from "../CapsuleFormat.ts"
import { readCapsule } from "../CapsuleStore.ts"
import type { Marker } from "../MarkerFormat.ts"
import type { MarkerScan } from "../MarkerStore.ts"
import type { LiveCapsule, OrphanCapsule } from "../NativeStartUp.ts"
import { type CapsuleLoss, CapsuleLost, PageSizeMismatch } from "../StartUpErrors.ts"
import type { CapsuleFile } from "./startUpFiles.ts"

// -- by marker --------------------------------------------------------------------------------------------------------

/** @internal */
export interface CapsuleReplay {
  readonly live: ReadonlyArray<LiveCapsule>
  /** Of the database, else of the first capsule. */
  readonly pageSize: PageSize | undefined
  /** Why the rest is not replayed. */
  readonly loss: CapsuleLost | PageSizeMismatch | undefined
}

/** Replays what markers name, in their order, up to the first capsule that is not what its marker names (RC-15). */
export const replayCapsules = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  markers: ReadonlyArray<Marker>,
  from: {
    readonly base: CommitSeq
    readonly pageSize: PageSize | undefined
    /** Size of the database at the base. */
    readonly databasePages: number
  }
): Effect.fn.Return<CapsuleReplay, VfsError> {
  const live: Array<LiveCapsule> = []
  let { databasePages, pageSize } = from
  for (const { capsule: id, seq } of markers) {
    const path = capsulePath(database, id)
    const read = yield* readWhole(vfs, database, id)
    if (Result.isFailure(read)) {
      const loss = new CapsuleLost({
        path,
        capsule: id,
        seq,
        ...read.failure,
        keptThrough: live.at(-1)?.seq ?? from.base,
        lostThrough: markers.at(-1)?.seq ?? seq
      })
      return { live, pageSize, loss }
    }
    const capsule = read.success
    pageSize ??= capsule.pageSize
    if (capsule.pageSize !== pageSize) {
      const loss = new PageSizeMismatch({
        path,
        walPageSize: capsule.pageSize,
        databasePageSize: pageSize,
        imageOffset: imageOffset(capsule.pageSize, capsule.pages.length, 0)
      })
      return { live, pageSize, loss }
    }
    databasePages = capsule.databasePages === 0
      ? Math.max(databasePages, capsule.pages.at(-1) ?? 0)
      : capsule.databasePages
    live.push(toLive(path, seq, capsule, databasePages))
  }
  return { live, pageSize, loss: undefined }
})

const toLive = (path: string, seq: CommitSeq, capsule: Capsule, databasePages: number): LiveCapsule => {
  const { id, pageSize, pages, token } = capsule
  const offsets = Float64Array.from(pages, (_, index) => imageOffset(pageSize, pages.length, index))
  const bytes = capsuleBytes(pageSize, pages.length)
  return { path, id, seq, token, bytes, databasePages, pages: Uint32Array.from(pages), offsets }
}

interface Lost {
  readonly loss: CapsuleLoss
  readonly found: string
  readonly expected: string
}

/** A capsule all of which checks, its id included. */
const readWhole = (
  vfs: Vfs["Service"],
  database: string,
  id: CapsuleFile["id"]
): Effect.Effect<Result.Result<Capsule, Lost>, VfsError> =>
  readCapsule(vfs, database, id).pipe(
    Effect.map((capsule): Result.Result<Capsule, Lost> => Result.succeed(capsule)),
    Effect.catchTag("CapsuleUnreadable", ({ issue }) =>
      Effect.succeed(Result.fail<Lost>({
        loss: "contents",
        found: `${issue.field} ${issue.found} (byte ${issue.offset})`,
        expected: issue.expected
      }))),
    Effect.catchIf(
      (error) => error.operation === "open" && error.code === "ENOENT",
      () => Effect.succeed(Result.fail<Lost>({ loss: "missing", found: "missing", expected: "there" }))
    )
  )

// -- by nobody, or by history -----------------------------------------------------------------------------------------

/**
 * How many markers at or below the mark are read at most to tell what a checkpoint has not come to remove (RC-21) from
 * what was never acknowledged (RC-16). Both are removed, so that it is enough to look where the last checkpoint has been:
 * 1.4 MB.
 */
const maxHistory = 16_384n

/** @internal */
export interface LeftOver {
  /** RC-16 */
  readonly orphans: ReadonlyArray<OrphanCapsule>
  /** Paths (RC-21). */
  readonly removable: ReadonlyArray<string>
}

/** Tells the capsules that no live marker names: which a marker at or below the mark does, and which no marker does. */
export const readLeftOver = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  leftOver: ReadonlyArray<CapsuleFile>,
  markers: { readonly scan: MarkerScan; readonly through: CommitSeq } | undefined
): Effect.fn.Return<LeftOver, VfsError> {
  const named = markers === undefined ? new Set<string>() : yield* namedByHistory(vfs, leftOver, markers)
  const orphans: Array<OrphanCapsule> = []
  const removable: Array<string> = []
  for (const { id, path } of leftOver) {
    if (named.has(objectIdToHex(id))) removable.push(path)
    else {
      const read = yield* readWhole(vfs, database, id)
      orphans.push({ path, id, token: Result.isSuccess(read) ? read.success.token : undefined })
    }
  }
  return { orphans, removable }
})

const namedByHistory = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  leftOver: ReadonlyArray<CapsuleFile>,
  { scan, through }: { readonly scan: MarkerScan; readonly through: CommitSeq }
): Effect.fn.Return<ReadonlySet<string>, VfsError> {
  const wanted = new Set<string>()
  let from: bigint = through + 1n
  for (const { id, path } of leftOver) {
    const begin = yield* readBegin(vfs, path)
    // A commit has a sequence above the one it began at: that of this one is above the mark.
    if (begin >= through) continue
    wanted.add(objectIdToHex(id))
    if (begin < from) from = begin + 1n
  }
  const named = new Set<string>()
  if (wanted.size === 0) return named
  if (from + maxHistory <= through) from = through - maxHistory + 1n
  yield* scan.visit(toCommitSeq(from), ({ capsule }) => {
    const id = objectIdToHex(capsule)
    if (wanted.has(id)) named.add(id)
  }).pipe(
    // What is damaged here is history: the capsules that it names are left to the other kind.
    Effect.catchTag("MarkerUnreadable", () => Effect.void)
  )
  return named
})

/** A hint, for nothing but where to look: it is not checked, and 0 when it cannot be read. */
const readBegin = (vfs: Vfs["Service"], path: string): Effect.Effect<bigint, VfsError> =>
  Effect.map(readSmallFile(vfs, path, capsuleHeaderBytes), (bytes) => {
    const header = decodeHeader(bytes ?? new Uint8Array(0))
    return Result.isSuccess(header) ? header.success.beginSeq : 0n
  })
