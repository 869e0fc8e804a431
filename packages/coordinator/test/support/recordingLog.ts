/**
 * A `CommitLog` that is told by the test when its commits become durable, and that keeps what it was handed. It checks
 * on every call what a coordinator promises a log.
 */
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { toCommitSeq, toLsn } from "@tidemark/core/Scalars"
import type { CommitSeq, PageNumber } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { CommitLog } from "@tidemark/wal/CommitLog"
import type { LogCommit, Published } from "@tidemark/wal/CommitLog"
import type { Admission, LogEnded } from "@tidemark/wal/GroupCommit"
import type { Exhausted } from "@tidemark/wal/LogErrors"
import { WalPoisoned } from "@tidemark/wal/LogErrors"
import { Cause, Context, Effect, Exit, Layer, Scope } from "effect"
import { pageSize } from "./database.ts"

export interface RecordedCommit extends LogCommit {
  readonly walOffset: number
  readonly images: ReadonlyArray<Uint8Array>
  readonly waiter: { readonly succeed: () => void; readonly fail: (failure: LogEnded) => void }
}

export class RecordingLog {
  readonly commits: Array<RecordedCommit> = []
  readonly restored: Array<{ readonly tip: CommitSeq; readonly walOffset: number }> = []
  /** Requests that wait for room, oldest first; only while `isFull`. */
  readonly waiting: Array<Admission> = []
  isFull = false
  ended: LogEnded | undefined
  exhausted: Exhausted | undefined
  private published: { readonly commitSeq: CommitSeq; readonly databasePages: number }
  private readonly recovered: {
    readonly base: CommitSeq
    readonly pages: ReadonlyArray<readonly [PageNumber, CommitSeq]>
  }
  private handedOver: CommitSeq
  private offset = 0
  private isEntering = false
  private pending: Array<RecordedCommit> = []
  private readonly listeners: Array<(published: Published) => void> = []

  constructor(options: {
    readonly base?: bigint
    readonly tip?: bigint
    readonly databasePages?: number
    readonly pages?: ReadonlyArray<readonly [PageNumber, CommitSeq]>
  } = {}) {
    const tip = toCommitSeq(options.tip ?? 0n)
    this.published = { commitSeq: tip, databasePages: options.databasePages ?? 100 }
    this.recovered = { base: toCommitSeq(options.base ?? tip), pages: options.pages ?? [] }
    this.handedOver = tip
  }

  /** Makes the oldest `count` commits durable and visible, as one batch. */
  readonly complete = (count = this.pending.length): void => {
    const done = this.pending.splice(0, count)
    const last = done.at(-1)
    if (last === undefined) return
    this.published = { commitSeq: last.seq, databasePages: last.databasePages }
    for (const listener of this.listeners) listener(this.published)
    for (const { waiter } of done) waiter.succeed()
  }

  /** Fails everything that is not durable, for good. */
  readonly poison = (message = "the disk is gone"): void => {
    const ended = new WalPoisoned({ log: "recording", lsn: toLsn(0), cause: Cause.fail(new Error(message)) })
    this.ended = ended
    for (const { waiter } of this.pending.splice(0)) waiter.fail(ended)
    for (const admission of this.waiting.splice(0)) admission.refuse(ended)
  }

  /** Lets the oldest waiting request in. */
  readonly letIn = (): void => {
    const next = this.waiting.shift()
    if (next !== undefined) this.enter(next)
  }

  private enter(admission: Admission): void {
    this.isEntering = true
    admission.enter()
    this.isEntering = false
  }

  readonly layer: Layer.Layer<CommitLog> = Layer.sync(CommitLog, () => {
    const recoveredTip = this.published.commitSeq
    return CommitLog.of({
      database: "/data/recording.db",
      pageSize,
      published: () => this.published,
      recovered: { base: this.recovered.base, tip: recoveredTip, pages: () => this.recovered.pages },
      ended: () => this.ended,
      commitBytes: (pageCount) => pageCount * (24 + pageSize),
      refuse: () => this.exhausted,
      restore: (tip, walOffset) => {
        this.restored.push({ tip, walOffset })
        this.handedOver = tip
        this.offset = walOffset
        this.published = { ...this.published, commitSeq: tip }
      },
      admit: (admission) => {
        if (this.ended !== undefined) {
          admission.refuse(this.ended)
          return () => {}
        }
        if (!this.isFull) {
          this.enter(admission)
          return () => {}
        }
        this.waiting.push(admission)
        return () => {
          const at = this.waiting.indexOf(admission)
          if (at >= 0) this.waiting.splice(at, 1)
        }
      },
      appendUnsafe: (commit, waiter) => {
        if (!this.isEntering) throw new Error("a commit was handed over without having been let in")
        if (commit.seq !== this.handedOver + 1n) throw new Error(`${commit.seq} follows ${this.handedOver}`)
        const images = commit.pages.map((number) => new Uint8Array(commit.image(number)))
        const recorded = { ...commit, images, waiter, walOffset: this.offset }
        this.handedOver = commit.seq
        this.offset += commit.pages.length * (24 + pageSize)
        this.commits.push(recorded)
        this.pending.push(recorded)
        return recorded.walOffset
      },
      poison: (cause) => this.poison(Cause.pretty(cause)),
      settle: Effect.void,
      openReader: () => ({
        high: this.published.commitSeq,
        databasePages: this.published.databasePages,
        versionOf: () => toCommitSeq(0n),
        read: () => {
          throw new Error("a recording holds no pages to read")
        },
        readSync: () => {
          throw new Error("a recording holds no pages to read")
        },
        release: () => {}
      }),
      isSeenByReaders: () => true,
      onRestart: () => {},
      onPublished: (listener) => {
        this.listeners.push(listener)
      }
    })
  })
}

/** A coordinator over a recording, with a lease of its own in memory. */
export const openRecording = Effect.fnUntraced(function*(
  log: RecordingLog,
  lease: Layer.Layer<CoordinatorLease.CoordinatorLease> = CoordinatorLease.layerMemory({
    name: "recording",
    registry: CoordinatorLease.makeLeaseRegistry()
  })
) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const layer = CompatCoordinator.layerNoDeps.pipe(
    Layer.provideMerge(lease),
    Layer.provideMerge(SharedHeader.layerMemory({ pageSize })),
    Layer.provideMerge(log.layer),
    Layer.provideMerge(MemoryVfs.layer)
  )
  const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
  // A coordinator that closes waits for its commits, which a test that fails does not complete.
  yield* Effect.addFinalizer(() => Effect.sync(() => log.poison()))
  return {
    coordinator: Context.get(context, CompatCoordinator.CompatCoordinator),
    lease: Context.get(context, CoordinatorLease.CoordinatorLease),
    header: Context.get(context, SharedHeader.SharedHeader),
    vfs: Context.get(context, Vfs),
    close: Scope.close(scope, Exit.void)
  }
})
