/**
 * What is the parallel WAL's own in its checkpoints (`segmentCheckpoint.ts`): epochs in the mark, and the certificate
 * log, which begins anew when everything that it vouches for is in the database file.
 */
import type { WalEpoch } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type { CertificateLog } from "../CertificateLog.ts"
import { type CheckpointMark, writeCheckpointMark } from "../CheckpointMarkFormat.ts"
import type { LogEnded } from "../GroupCommit.ts"
import { CheckpointFailed } from "../LogErrors.ts"
import type { CertifiedSegment, EpochLog } from "./epochLog.ts"
import { SegmentCheckpoint, type SegmentCheckpointOptions } from "./segmentCheckpoint.ts"
import { copySegments } from "./segmentCopy.ts"

export interface ParallelCheckpointOptions extends Omit<SegmentCheckpointOptions<CertifiedSegment>, "index"> {
  readonly log: EpochLog
  readonly certificates: CertificateLog
  /** The certificate log is replaced when it is longer than this. */
  readonly maxCertificateBytes: number
}

export class ParallelCheckpoint extends SegmentCheckpoint<CertifiedSegment> {
  private readonly options: ParallelCheckpointOptions

  constructor(options: ParallelCheckpointOptions) {
    super({ ...options, index: options.log.options.index })
    this.options = options
  }

  protected override markAfter(last: CertifiedSegment): CheckpointMark {
    return {
      kind: "parallel",
      through: last.high,
      segmentEpoch: last.epoch,
      certificateEpoch: last.certificateEpoch,
      databasePages: last.databasePages
    }
  }

  protected override readonly afterRound: Effect.Effect<void, CheckpointFailed | LogEnded> = Effect.suspend(() => {
    const { certificates, maxCertificateBytes } = this.options
    return certificates.bytes() <= maxCertificateBytes
      ? Effect.void
      : this.whileQuiet(Effect.suspend(() =>
        this.canBeEmptied
          ? Effect.andThen(this.copy, this.emptied)
          : Effect.void
      ))
  })

  /**
   * At the start, when a certified segment is lost and only what stands before it was kept (RC-08): everything above goes
   * out of the record before the first commit, so that it can never be taken for the continuation of it.
   */
  acceptLoss(found: { readonly epoch: WalEpoch; readonly certificateEpoch: bigint }): Effect.Effect<void, VfsError> {
    const { database, log, vfs } = this.options
    const { commitSeq, databasePages } = log.published
    return Effect.gen({ self: this }, function*() {
      const segments = Array.from(log.options.index.segments)
      const last = segments.at(-1)
      if (last !== undefined) yield* copySegments(this.segmentCopy, segments, last)
      yield* writeCheckpointMark(vfs, database, {
        kind: "parallel",
        through: commitSeq,
        segmentEpoch: (found.epoch - 1n) as WalEpoch, // the one before the first that will be written
        certificateEpoch: found.certificateEpoch,
        databasePages
      })
      this.options.readers.drop(segments.length)
      yield* this.options.certificates.replace(commitSeq)
      yield* this.remove(segments)
    }).pipe(Effect.catchTag("DatabaseTruncated", Effect.die))
  }

  /** The certificates are of no use any more. */
  protected override readonly emptied: Effect.Effect<void, CheckpointFailed> = Effect.suspend(() => {
    const { certificates, database, log } = this.options
    const { commitSeq, databasePages } = log.published
    const last = certificates.last()
    const emptied = Effect.mapError(certificates.replace(commitSeq), (cause) => {
      if (!certificates.isUsable()) log.poison(Cause.fail(cause))
      return new CheckpointFailed({ path: database, cause })
    })
    // The certificate alone says that the sequences of an aborted interval are used up.
    return last?.aborted !== true ? emptied : Effect.andThen(
      this.mark({
        kind: "parallel",
        through: commitSeq,
        segmentEpoch: (log.epoch - 1n) as WalEpoch, // the last one that is closed
        certificateEpoch: last.certificateEpoch,
        databasePages
      }),
      emptied
    )
  })
}
