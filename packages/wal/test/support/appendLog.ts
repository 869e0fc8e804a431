/** An append log on a memory disk, and the small steps that its tests share. */
import type { Lsn } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { AppendLogOptions, LogRecord, OpenError, ReadError } from "../../src/AppendLog.ts"
import { AppendLog } from "../../src/AppendLog.ts"

export type Log = AppendLog["Service"]

/** The directory that tests on a memory disk use. */
export const memoryDirectory = "/data/log"

export interface OpenedLog {
  readonly log: Log
  readonly close: Effect.Effect<void>
}

/** Opens a log on a platform, in a scope of its own that ends with the caller's or at `close`. */
export const openOn = <E>(
  platform: Layer.Layer<Vfs | FileLock | ProcessLiveness, E>,
  options: AppendLogOptions
): Effect.Effect<OpenedLog, E | OpenError, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const context = yield* Layer.buildWithScope(
      Layer.fresh(Layer.provide(AppendLog.layer(options), Layer.fresh(platform))),
      scope
    ).pipe(Effect.onError(() => Scope.close(scope, Exit.void)))
    return { log: Context.get(context, AppendLog), close: Scope.close(scope, Exit.void) }
  })

/** Opens the log of a memory disk as a process of its own. */
export const openMemory = (
  disk: MemoryDisk,
  options: Partial<AppendLogOptions> = {}
): Effect.Effect<OpenedLog, OpenError, Scope.Scope> =>
  openOn(MemoryVfs.layerDisk(disk), { directory: memoryDirectory, ...options })

const encoder = new TextEncoder()
const decoder = new TextDecoder()

export const bytesOf = (text: string): Uint8Array => encoder.encode(text)
export const textOf = (bytes: Uint8Array): string => decoder.decode(bytes)

/** A payload that says its number, of the given length at least. */
export const payloadOf = (number: number, length = 0): Uint8Array => bytesOf(`${number}:`.padEnd(length, "."))
export const numberOf = (payload: Uint8Array): number => Number.parseInt(textOf(payload), 10)

/** Everything durable, from a position on. */
export const readAll = (log: Log, from?: Lsn): Effect.Effect<ReadonlyArray<LogRecord>, ReadError> =>
  Stream.runCollect(log.stream({ from }))

export const textsOf = (records: ReadonlyArray<LogRecord>): ReadonlyArray<string> =>
  records.map(({ payload }) => textOf(payload))
