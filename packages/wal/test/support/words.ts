/** The smallest state that a log can hold: a list of words. It remembers the order in which it was told. */
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Effect, Exit, Layer, Result, Scope } from "effect"
import { AppendLog, type AppendLogOptions } from "../../src/AppendLog.ts"
import type { LoggedState, StateDefinition, StateLogOptions } from "../../src/internal/loggedState.ts"
import { openStateLog } from "../../src/internal/openStateLog.ts"

export class Words implements LoggedState<string> {
  readonly words: Array<string> = []
  liveBytes = 0
  /** Called with every word before it is added. */
  onApply: (word: string) => void = () => {}

  readonly apply = (word: string, itemBytes: number): void => {
    this.onApply(word)
    this.words.push(word)
    this.liveBytes += itemBytes
    // A word that takes its time back: what lives becomes small, and the log is too long.
    if (word === "forget") {
      this.words.length = 0
      this.liveBytes = 0
    }
  }

  readonly capture = (): ReadonlyArray<string> => this.words.slice()
}

const encoder = new TextEncoder()
const decoder = new TextDecoder()

export const words: StateDefinition<Words, string> = {
  kind: "WORD",
  encode: (word) => encoder.encode(word),
  decode: (bytes) => Result.succeed(decoder.decode(bytes)),
  empty: () => new Words()
}

export const directory = "/words"

export const defaultOptions: StateLogOptions = {
  snapshotRatio: 2,
  snapshotMinBytes: 1024 * 1024,
  maxQueuedBytes: 1024 * 1024
}

export interface OpenOptions {
  readonly log?: Partial<AppendLogOptions>
  readonly state?: Partial<StateLogOptions>
}

/** Opens the log of a disk as a process of its own, until the scope closes or `close` is called. */
export const openLog = (disk: MemoryDisk, options: Partial<AppendLogOptions> = {}) =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const platform = yield* Layer.buildWithScope(Layer.fresh(MemoryVfs.layerDisk(disk)), scope)
    const log = yield* AppendLog.open({ directory, ...options }).pipe(
      Effect.provideContext(platform),
      Scope.provide(scope)
    )
    return { log, scope, close: Scope.close(scope, Exit.void) }
  })

/** Opens the words of a disk as a process of its own. */
export const openWords = (disk: MemoryDisk, options: OpenOptions = {}) =>
  Effect.gen(function*() {
    const { close, log, scope } = yield* openLog(disk, options.log)
    const stateLog = yield* openStateLog(log, words, { ...defaultOptions, ...options.state }).pipe(
      Scope.provide(scope),
      Effect.onError(() => close)
    )
    const { state } = stateLog
    /** Adds words together and answers how many there are then. */
    const add = (...added: ReadonlyArray<string>) =>
      stateLog.transact(() => ({ type: "commit", commands: added, answer: () => state.words.length }))
    return { log, stateLog, state, add, close }
  })

export type OpenedWords = Effect.Success<ReturnType<typeof openWords>>

/** What is there after a start, in a process that is gone afterwards. */
export const wordsOn = (disk: MemoryDisk, options: OpenOptions = {}) =>
  Effect.scoped(Effect.map(openWords(disk, options), ({ state }) => state.words.slice()))

export const segments = /\/[0-9a-f]{16}\.tlog$/
