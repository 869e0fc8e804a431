/** How the adapters' layers get their options and their log. */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { AppendLog } from "../AppendLog.ts"
import * as AppendLogModule from "../AppendLog.ts"
import { maxPayloadBytes } from "../AppendLogFormat.ts"
import type { LogStateDirectoryOptions, LogStateOptions, OpenDirectoryError, Platform } from "../LogState.ts"
import { defaults } from "../LogState.ts"
import type { StateLogOptions } from "./loggedState.ts"

/** @internal */
export const stateLogOptions = (options: LogStateOptions = {}): StateLogOptions => ({
  snapshotRatio: options.snapshotRatio ?? defaults.snapshotRatio,
  snapshotMinBytes: options.snapshotMinBytes ?? defaults.snapshotMinBytes,
  maxQueuedBytes: options.maxQueuedBytes ?? defaults.maxQueuedBytes
})

/**
 * The adapter's layer over a log of its own.
 *
 * @internal
 */
export const overDirectory = <A, E extends OpenDirectoryError>(
  layer: (options: LogStateOptions) => Layer.Layer<A, E, AppendLog>,
  options: LogStateDirectoryOptions
): Layer.Layer<A, OpenDirectoryError, Platform> =>
  Layer.provide(
    layer(options),
    AppendLog.layer({ ...options, segmentBytes: options.segmentBytes ?? defaults.segmentBytes })
  )

/**
 * The same, with options from the configuration: `<prefix>_DIRECTORY` and the keys of {@link defaults} behind it.
 *
 * @internal
 */
export const overConfig = <A, E extends OpenDirectoryError>(
  layer: (options: LogStateOptions) => Layer.Layer<A, E, AppendLog>,
  prefix: string
): Layer.Layer<A, OpenDirectoryError | Config.ConfigError, Platform> =>
  Layer.unwrap(Effect.map(configOf(prefix), (options) => overDirectory(layer, options)))

const configOf = (prefix: string): Config.Config<LogStateDirectoryOptions> => {
  const integer = (key: string, minimum: number, maximum: number, byDefault: number) =>
    Config.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })), `${prefix}_${key}`).pipe(
      Config.withDefault(byDefault)
    )
  const bytes = (key: string, minimum: number, byDefault: number) =>
    integer(key, minimum, Number.MAX_SAFE_INTEGER, byDefault)
  return Config.all({
    directory: Config.String(`${prefix}_DIRECTORY`),
    snapshotRatio: integer("SNAPSHOT_RATIO", 1, Number.MAX_SAFE_INTEGER, defaults.snapshotRatio),
    snapshotMinBytes: bytes("SNAPSHOT_MIN_BYTES", 0, defaults.snapshotMinBytes),
    maxQueuedBytes: bytes("MAX_QUEUED_BYTES", 1, defaults.maxQueuedBytes),
    segmentBytes: bytes("SEGMENT_BYTES", 4096, defaults.segmentBytes),
    maxRecordBytes: integer("MAX_RECORD_BYTES", 1, maxPayloadBytes, AppendLogModule.defaults.maxRecordBytes)
  })
}
