/** What `ParallelWalOptions` are when they are not given: for the public module, and for the one that it is made by. */
import * as Duration from "effect/Duration"

/** @internal */
export const parallelDefaults = {
  epochInterval: Duration.millis(10),
  slots: 128,
  laneCapacityBytes: 4 * 1024 * 1024,
  overflowPolicy: "overflow",
  overflowLimitBytes: 8 * 1024 * 1024,
  maxQueuedBytes: 64 * 1024 * 1024,
  syncPolicy: "full",
  autoCheckpointFrames: 1000,
  /** An advance that waits for writers gives up after so many intervals (PW-10). */
  advanceIntervals: 10,
  /** The certificate log is replaced by an empty one when it is longer than this, bytes. */
  maxCertificateBytes: 1024 * 1024,
  busyTimeout: Duration.seconds(5)
} as const
