/**
 * What is the native log's own in its checkpoints (`segmentCheckpoint.ts`): the mark names the log, and nothing but
 * capsules goes away. The markers stay, as the history of the database.
 */
import type { WalEpoch } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import type { CheckpointMark } from "../CheckpointMarkFormat.ts"
import type { NativeState } from "./nativeState.ts"
import { SegmentCheckpoint, type SegmentCheckpointOptions } from "./segmentCheckpoint.ts"
import type { SegmentInLog } from "./versionIndex.ts"

export interface NativeCheckpointOptions extends SegmentCheckpointOptions<SegmentInLog> {
  readonly log: NativeState
  /** What the mark said when the log was opened. */
  readonly previous: CheckpointMark | undefined
}

export class NativeCheckpoint extends SegmentCheckpoint<SegmentInLog> {
  private readonly log: NativeState
  private readonly previous: CheckpointMark | undefined

  constructor(options: NativeCheckpointOptions) {
    super(options)
    this.log = options.log
    this.previous = options.previous
  }

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

  /** A capsule stays while another commit names it too. */
  protected override remove(segments: ReadonlyArray<SegmentInLog>): Effect.Effect<void> {
    return super.remove(segments.filter(({ path }) => this.log.letGo(path)))
  }

  protected override readonly emptied = Effect.void
  protected override readonly afterRound = Effect.void
}

const noEpoch = 0n as WalEpoch // of a database that has had no parallel log
