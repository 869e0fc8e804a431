/** An open native log with the few steps that its tests share. Nothing happens by itself unless a test asks for it. */
import type { CommitSeq } from "@tidemark/core/Scalars"
import { PageSize, toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { Context, Deferred, Effect, Exit, Layer, Scope, Semaphore } from "effect"
import * as CapsuleFormat from "../../src/CapsuleFormat.ts"
import { CapsuleStore } from "../../src/CapsuleStore.ts"
import type { LogEnded } from "../../src/GroupCommit.ts"
import { markersDirectory } from "../../src/MarkerFormat.ts"
import * as NativeLog from "../../src/NativeLog.ts"
import type { Change, Ledger } from "./ledger.ts"
import { filledPage, nextVersion, type Version } from "./pages.ts"
import { memoryPath, prepareDisk } from "./sqliteWal.ts"

export const pageSize = PageSize.make(512)

export interface OpenedNative {
  readonly native: NativeLog.NativeLog["Service"]
  readonly log: NativeLog.NativeLog["Service"]["commits"]
  readonly capsules: CapsuleStore["Service"]
  readonly close: Effect.Effect<void>
  /** Held from the choice of a commit's sequence to its hand-over: the ledger's order is that of the log. */
  readonly turn: Semaphore.Semaphore
}

export type Options = Partial<NativeLog.NativeLogOptions>

/** What happens only when a test says so: checkpoints. */
export const byHand: Options = { create: { pageSize }, autoCheckpointFrames: 0, checkpointOnClose: false }

/** Opens a database on a platform, in a scope of its own that ends with the caller's or at `close`. */
export const openNativeOn = <E>(
  platform: Layer.Layer<Vfs | FileLock, E>,
  options: NativeLog.NativeLogOptions
): Effect.Effect<OpenedNative, E | NativeLog.OpenNativeError, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const context = yield* Layer.buildWithScope(
      Layer.fresh(Layer.provide(NativeLog.layer(options), Layer.fresh(platform))),
      scope
    ).pipe(Effect.onError(() => Scope.close(scope, Exit.void)))
    const native = Context.get(context, NativeLog.NativeLog)
    return {
      native,
      log: native.commits,
      capsules: Context.get(context, CapsuleStore),
      close: Scope.close(scope, Exit.void),
      turn: Semaphore.makeUnsafe(1)
    }
  })

/** The same on a memory disk, {@link byHand}. */
export const openByHand = (
  disk: MemoryDisk,
  options: Options = {}
): Effect.Effect<OpenedNative, NativeLog.OpenNativeError, Scope.Scope> =>
  openNativeOn(MemoryVfs.layerDisk(disk), { database: memoryPath, ...byHand, ...options })

/** A disk on which every operation is done at once. */
export const emptyDisk = (): MemoryDisk => prepareDisk(MemoryDisk.make({ async: false }))

/** A disk on which every operation lets the event loop turn once. */
export const slowDisk = (): MemoryDisk => prepareDisk(MemoryDisk.make())

/** The capsule of a commit that writes these pages. */
export const capsuleOf = (
  seq: CommitSeq,
  written: ReadonlyMap<number, Uint8Array>,
  databasePages: number,
  ofPageSize: PageSize = pageSize
): CapsuleFormat.EncodedCapsule =>
  CapsuleFormat.encode({
    token: { id: toTxnId(seq), epoch: TxnEpoch.make(0) },
    beginSeq: toCommitSeq(seq - 1n),
    databasePages,
    pageSize: ofPageSize,
    pages: Array.from(written.keys(), toPageNumber)
  }, (page) => written.get(page) ?? new Uint8Array(0))

/** A commit as a coordinator hands it over; its capsule was put before. */
export const commitOf = (
  seq: CommitSeq,
  written: ReadonlyMap<number, Uint8Array>,
  databasePages: number,
  capsule: CapsuleFormat.EncodedCapsule
): NativeLog.NativeCommit => ({
  token: { id: toTxnId(seq), epoch: TxnEpoch.make(0) },
  seq,
  pages: Array.from(written.keys(), toPageNumber),
  capsule: capsule.id,
  databasePages,
  markerId: undefined
})

/** Puts a capsule with these pages, which are told apart by the sequence, and answers the commit that names it. */
export const put = ({ capsules }: OpenedNative, seq: bigint, ...pages: ReadonlyArray<number>) =>
  Effect.gen(function*() {
    const images = new Map(pages.map((page) => [page, filledPage(pageSize, page, Number(seq))]))
    const capsule = capsuleOf(toCommitSeq(seq), images, 9)
    yield* capsules.put(capsule)
    return commitOf(toCommitSeq(seq), images, 9, capsule)
  })

/** The stamp of a page as it is visible now. */
export const stampOf = ({ log }: Pick<OpenedNative, "log">, page: number): number => {
  const reader = log.openReader()
  try {
    return Buffer.from(reader.readSync(toPageNumber(page))).readUInt32BE(4)
  } finally {
    reader.release()
  }
}

/** Hands a commit over when there is room, and tells what becomes of it. `entered` comes in the same synchronous step. */
export const handOver = (
  { log }: Pick<OpenedNative, "log">,
  commit: NativeLog.NativeCommit,
  entered: () => void,
  settled: (exit: Exit.Exit<CommitSeq, LogEnded>) => void
): () => void =>
  log.admit({
    length: log.commitBytes(commit.pages.length),
    enter: () => {
      entered()
      log.appendUnsafe(commit, {
        mode: "durable",
        succeed: () => settled(Exit.succeed(commit.seq)),
        fail: (ended) => settled(Exit.fail(ended))
      })
    },
    refuse: (ended) => {
      entered()
      settled(Exit.fail(ended))
    }
  })

interface Prepared {
  readonly commit: NativeLog.NativeCommit
  readonly after: Version
}

/** Puts the capsule of the change that follows `before` as commit `seq`. */
const prepare = (ledger: Ledger, opened: OpenedNative, seq: CommitSeq, before: Version, change: Change) =>
  Effect.gen(function*() {
    const stamp = Number(seq % 0xffffffn) + 1
    const { after, written } = nextVersion(before, ledger.pageSize, stamp, change.pages, change.databasePages)
    const capsule = capsuleOf(seq, written, after.databasePages, ledger.pageSize)
    yield* opened.capsules.put(capsule)
    return { commit: commitOf(seq, written, after.databasePages, capsule), after }
  })

/** Hands over what was prepared, when there is room; completes when it was, with what becomes of it. */
const submit = (ledger: Ledger, opened: OpenedNative, { after, commit }: Prepared) =>
  Effect.callback<Deferred.Deferred<CommitSeq, LogEnded>>((resume) => {
    const outcome = Deferred.makeUnsafe<CommitSeq, LogEnded>()
    const stepBack = handOver(opened, commit, () => {
      if (opened.log.ended() === undefined) {
        ledger.versions.set(commit.seq, after)
        ledger.lastSeq = commit.seq
      }
      resume(Exit.succeed(outcome))
    }, (exit) => {
      if (Exit.isSuccess(exit)) {
        ledger.acknowledged = commit.seq
        ledger.onAcknowledged(commit.seq)
      }
      Deferred.doneUnsafe(outcome, exit)
    })
    return Effect.sync(stepBack)
  })

/** Puts the capsule of a change and commits it; what the ledger says moves when it is handed over. */
export const commit = (
  ledger: Ledger,
  opened: OpenedNative,
  change: Change
): Effect.Effect<CommitSeq, LogEnded | VfsError> =>
  Effect.suspend(() => {
    const next = toCommitSeq(ledger.lastSeq + 1n)
    return Effect.flatMap(
      prepare(ledger, opened, next, ledger.version(ledger.lastSeq), change),
      (prepared) => submit(ledger, opened, prepared)
    )
  }).pipe((turn) => opened.turn.withPermit(turn), Effect.flatMap(Deferred.await))

/** Commits so many changes in one batch: all capsules are put before the first commit is handed over. */
export const burst = (
  ledger: Ledger,
  opened: OpenedNative,
  count: number
): Effect.Effect<void, LogEnded | VfsError> =>
  Effect.gen(function*() {
    const prepared: Array<Prepared> = []
    let before = ledger.version(ledger.lastSeq)
    for (let n = 1; n <= count; n++) {
      const change = { pages: [2 + n % 3], databasePages: Math.max(4, before.databasePages) }
      const each = yield* prepare(ledger, opened, toCommitSeq(ledger.lastSeq + BigInt(n)), before, change)
      prepared.push(each)
      before = each.after
    }
    const outcomes = yield* Effect.forEach(prepared, (each) => submit(ledger, opened, each))
    yield* Effect.forEach(outcomes, (outcome) => Deferred.await(outcome))
  }).pipe((turn) => opened.turn.withPermit(turn))

/** One commit after another, each of two or three pages. */
export const commits = (ledger: Ledger, opened: OpenedNative, count: number) =>
  Effect.forEach(Array.from({ length: count }), (_, n) =>
    commit(ledger, opened, {
      pages: [2 + n % 5],
      databasePages: Math.max(6, ledger.version(ledger.lastSeq).databasePages)
    }), { discard: true })

export const capsulesOf = (disk: MemoryDisk): ReadonlyArray<string> =>
  disk.files.filter((path) => path.startsWith(`${CapsuleFormat.capsulesDirectory(memoryPath)}/`))

export const markerFilesOf = (disk: MemoryDisk): ReadonlyArray<string> =>
  disk.files.filter((path) => path.startsWith(`${markersDirectory(memoryPath)}/`))
