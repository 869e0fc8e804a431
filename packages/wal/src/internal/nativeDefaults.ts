/** What `NativeLogOptions` are when they are not given: for the public module, and for the one that it is made by. */
import * as Duration from "effect/Duration"

/** @internal */
export const nativeDefaults = {
  /** 1,024 commits: who is first in a batch does not wait for more capsules than that. Bytes. */
  maxBatchBytes: 1024 * 88,
  autoCheckpointFrames: 1000,
  busyTimeout: Duration.seconds(5)
} as const
