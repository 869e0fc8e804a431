/**
 * A marker stream as the sink of a group commit: positions in the log are sequences, counted from the one at which the
 * stream was opened.
 *
 * Invariants
 * 1. LSN = (sequence - first sequence of this opening) x 88: a hand-over is one marker, encoded by `encodeNext` in the
 *    step in which it is handed over, so the order of both is the same.
 * 2. No marker is written, synced or not, before the barrier of its batch is through: what markers name is durable before
 *    they can be (CO-10). Nobody hands out a written marker whose barrier has failed: the log is poisoned.
 * 3. After poison no file is touched, not even by the rest of a batch that is under way.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, Lsn } from "@tidemark/core/Scalars"
import { toCommitSeq, toLsn } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type { GroupCommitSink } from "../GroupCommit.ts"
import type { WalPoisoned } from "../LogErrors.ts"
import { markerBytes } from "../MarkerFormat.ts"
import type { MarkerFiles } from "../MarkerStore.ts"

/** @internal */
export interface MarkerSinkOptions {
  /** The log's name in errors and metrics. */
  readonly name: string
  readonly files: MarkerFiles
  /** Runs before the markers `from` ... `from + count - 1` are written: makes durable what they name. */
  readonly barrier?: ((from: CommitSeq, count: number) => Effect.Effect<void, VfsError>) | undefined
  /** `GroupCommitSink.onDurable`, told the last sequence that is durable. */
  readonly onDurable?: ((through: CommitSeq) => void) | undefined
  readonly onPoisoned?: ((failure: WalPoisoned) => void) | undefined
}

/** @internal */
export interface MarkerSink extends GroupCommitSink {
  /** The last sequence before a position. */
  readonly sequenceBefore: (lsn: Lsn) => CommitSeq
  /** The position behind a sequence, for waiting. */
  readonly positionBehind: (seq: CommitSeq) => Lsn
}

/** @internal */
export const makeMarkerSink = (options: MarkerSinkOptions): MarkerSink => {
  const { barrier, files, onDurable, onPoisoned } = options
  const first = files.next()

  const sequenceAt = (lsn: Lsn): CommitSeq => {
    invariant(lsn % markerBytes === 0, "batches are whole markers")
    return toCommitSeq(first + BigInt(lsn / markerBytes))
  }

  const behindBarrier = (
    buffers: ReadonlyArray<Uint8Array>,
    lsn: Lsn,
    write: (from: CommitSeq) => Effect.Effect<void, VfsError>
  ): Effect.Effect<void, VfsError> => {
    const from = sequenceAt(lsn)
    if (barrier === undefined) return write(from)
    let bytes = 0
    for (const buffer of buffers) bytes += buffer.length
    // Poisoned meanwhile, the files refuse.
    return Effect.andThen(barrier(from, bytes / markerBytes), Effect.suspend(() => write(from)))
  }

  return {
    name: options.name,
    write: (buffers, lsn) => behindBarrier(buffers, lsn, (from) => files.write(buffers, from)),
    writeAndSync: (buffers, lsn, background) =>
      behindBarrier(buffers, lsn, (from) => files.writeAndSync(buffers, from, background)),
    sync: files.sync,
    onDurable: onDurable === undefined ? undefined : (durable) => onDurable(toCommitSeq(sequenceAt(durable) - 1n)),
    onPoisoned: (failure) => {
      files.abandon()
      onPoisoned?.(failure)
    },
    sequenceBefore: (lsn) => toCommitSeq(sequenceAt(lsn) - 1n),
    positionBehind: (seq) => toLsn(Number(seq + 1n - first) * markerBytes)
  }
}
