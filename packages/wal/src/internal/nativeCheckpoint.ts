/**
 * What is the native log's own in its checkpoints (`segmentCheckpoint.ts`): the mark names the log, and nothing but
 * capsules goes away. The markers stay, as the history of the database.
 */
import type { PageSize, WalEpoch } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { capsuleBytes, idOfCapsuleName } from "../CapsuleFormat.ts"
import type { CapsuleStore } from "../CapsuleStore.ts"
import type { CheckpointMark } from "../CheckpointMarkFormat.ts"
import type { NativeState } from "./nativeState.ts"
import { SegmentCheckpoint, type SegmentCheckpointOptions } from "./segmentCheckpoint.ts"
import type { SegmentInLog } from "./versionIndex.ts"

export interface NativeCheckpointOptions extends SegmentCheckpointOptions<SegmentInLog> {
  readonly log: NativeState
  readonly capsules: CapsuleStore["Service"]
  /** What the mark said when the log was opened. */
  readonly previous: CheckpointMark | undefined
}

export class NativeCheckpoint extends SegmentCheckpoint<SegmentInLog> {
  private readonly log: NativeState
  private readonly capsules: CapsuleStore["Service"]
  private readonly pageSize: PageSize
  private readonly previous: CheckpointMark | undefined
  /** Pages in the capsules that are to go, by path. */
  private readonly going = new Map<string, number>()

  constructor(options: NativeCheckpointOptions) {
    super(options)
    this.log = options.log
    this.capsules = options.capsules
    this.pageSize = options.pageSize
    this.previous = options.previous
  }

  override close(isLast: boolean): Effect.Effect<void> {
    return Effect.andThen(
      super.close(isLast),
      Effect.suspend(() => this.log.isPoisoned ? Effect.void : this.removeSpares)
    )
  }

  /** What the background kept of files. */
  readonly removeSpares: Effect.Effect<void> = Effect.suspend(() =>
    Effect.catch(
      this.capsules.removeSpares,
      (error) => Effect.logWarning("a capsule whose pages are in the database file could not be removed", error)
    )
  )

  protected override markAfter({ databasePages, high }: SegmentInLog): CheckpointMark {
    return {
      kind: "native",
      through: high,
      // Where a parallel log goes on from after this one (PW-09): no number of its own is used twice.
      segmentEpoch: this.previous?.segmentEpoch ?? noEpoch,
      certificateEpoch: this.previous?.certificateEpoch ?? 0n,
      databasePages
    }
  }

  /**
   * A capsule stays while another commit names it too. Who asks for a checkpoint finds no capsule afterwards that the log
   * does not need; one in the background leaves their files for the next commits.
   */
  protected override remove(segments: ReadonlyArray<SegmentInLog>): Effect.Effect<void> {
    const gone = segments.filter(({ path }) => this.log.letGo(path))
    if (!this.isAutomatic) return Effect.andThen(super.remove(gone), this.removeSpares)
    for (const { pages, path } of gone) this.going.set(path, pages.length)
    return super.remove(gone)
  }

  /**
   * A file that is to serve again is recycled, others go. One that another commit has come to name since it was let go
   * stays.
   */
  protected override removeFile(path: string): Effect.Effect<void, VfsError> {
    return Effect.suspend(() => {
      const id = idOfCapsuleName(path.slice(path.lastIndexOf("/") + 1))
      const pages = this.going.get(path)
      this.going.delete(path)
      if (this.log.isNamed(path)) return Effect.void
      if (id === undefined) return super.removeFile(path)
      return pages === undefined
        ? this.capsules.remove(id)
        : this.capsules.recycle(id, capsuleBytes(this.pageSize, pages))
    })
  }

  protected override readonly emptied = Effect.void
  protected override readonly afterRound = Effect.void
}

const noEpoch = 0n as WalEpoch // of a database that has had no parallel log
