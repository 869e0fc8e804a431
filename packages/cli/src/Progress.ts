/**
 * A progress line on standard error for what takes longer than a second: redrawn in place on a terminal, written anew
 * every few seconds elsewhere.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { count } from "./Style.ts"

const startAfterMillis = 1000
const redrawMillis = 200
const repeatMillis = 5000
const barCells = 24

/**
 * What is done of something whose size is known: `[########----------------]  33 %  1,234 of 3,702 commits`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const bar = (done: number, total: number, unit: string): string => {
  const share = total === 0 ? 1 : Math.min(1, done / total)
  const cells = Math.floor(share * barCells)
  return `[${"#".repeat(cells)}${"-".repeat(barCells - cells)}] ${Math.floor(share * 100).toString().padStart(3)} %  ${
    count(done)
  } of ${count(total)} ${unit}`
}

/**
 * Runs an effect and shows `describe()` from its second second on.
 *
 * @category running
 * @since 0.1.0
 */
export const withProgress =
  (describe: () => string) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.scoped(Effect.andThen(showWhileScoped(describe), effect))

const showWhileScoped = Effect.fnUntraced(function*(describe: () => string) {
  const { stderr } = process
  const isTerminal = stderr.isTTY && process.env["TERM"] !== "dumb"
  const startedAt = yield* Clock.currentTimeMillis
  let isShown = false
  const show = Effect.map(Clock.currentTimeMillis, (now) => {
    const line = `${describe()}  (${Math.floor((now - startedAt) / 1000)} s)`
    isShown = true
    stderr.write(isTerminal ? `\r\u001b[K${line}` : `tidemark: ${line}\n`)
  })
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      if (isShown && isTerminal) stderr.write("\r\u001b[K")
    })
  )
  yield* Effect.gen(function*() {
    yield* Effect.sleep(startAfterMillis)
    while (true) {
      yield* show
      yield* Effect.sleep(isTerminal ? redrawMillis : repeatMillis)
    }
  }).pipe(Effect.forkScoped)
})
