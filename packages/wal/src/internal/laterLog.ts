/**
 * Log lines that are noticed in a synchronous step, where nothing can be logged: the next effect that passes writes them.
 */
import * as Effect from "effect/Effect"

/** Lines that wait to be written. What comes above the limit is counted only. */
const maxLines = 64

/** @internal */
export class LaterLog {
  private lines: Array<Effect.Effect<void>> = []
  private dropped = 0

  warn(message: string): void {
    this.add(Effect.logWarning(message))
  }

  error(message: string, cause: unknown): void {
    this.add(Effect.logError(message, cause))
  }

  /** Writes what has been noticed since, with the annotations of the fiber that comes by. */
  readonly write: Effect.Effect<void> = Effect.suspend(() => {
    if (this.lines.length === 0) return Effect.void
    const { dropped, lines } = this
    this.lines = []
    this.dropped = 0
    if (dropped > 0) lines.push(Effect.logWarning(`${dropped} more lines were left out`))
    return Effect.all(lines, { discard: true })
  })

  private add(line: Effect.Effect<void>): void {
    if (this.lines.length < maxLines) this.lines.push(line)
    else this.dropped++
  }
}
