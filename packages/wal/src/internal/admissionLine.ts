/**
 * Who waits until there is room in a parallel WAL, in the order of arrival: nobody passes somebody who came before.
 *
 * Admissions run inline, and may ask for room again: no iterator is held over the line while one runs.
 */
import type { Admission, LogEnded } from "../GroupCommit.ts"
import { Fifo } from "./fifo.ts"

/** What the line has to know of its log. @internal */
export interface AdmissionRules {
  readonly ended: () => LogEnded | undefined
  readonly hasRoom: (length: number) => boolean
  /** Somebody who stood in the line threw when it was his turn; he is in it no more, and is to be told. */
  readonly onDefect: (defect: unknown, admission: Admission) => void
}

interface Waiting {
  readonly admission: Admission
  /** What else has to be the case. */
  readonly fits: () => boolean
}

/** @internal */
export class AdmissionLine {
  private readonly rules: AdmissionRules
  private readonly waiting = new Fifo<Waiting>()

  constructor(rules: AdmissionRules) {
    this.rules = rules
  }

  /** Lets somebody in at once, or makes him wait; answers how he steps back. What he throws at once is his own. */
  ask(admission: Admission, fits: () => boolean): () => void {
    const ended = this.rules.ended()
    if (ended !== undefined) {
      admission.refuse(ended)
      return () => {}
    }
    if (this.waiting.size === 0 && this.rules.hasRoom(admission.length) && fits()) {
      admission.enter()
      return () => {}
    }
    const waiting = { admission, fits }
    this.waiting.push(waiting)
    return () => {
      // Whoever stood behind may fit now.
      if (this.waiting.remove(waiting)) this.proceed()
    }
  }

  /** There may be room now. */
  proceed(): void {
    const { ended, hasRoom, onDefect } = this.rules
    for (let next = this.waiting.first; next !== undefined; next = this.waiting.first) {
      if (ended() !== undefined || !hasRoom(next.admission.length) || !next.fits()) return
      this.waiting.shift()
      try {
        next.admission.enter()
      } catch (defect) {
        return onDefect(defect, next.admission)
      }
    }
  }

  /** Empties the line. */
  takeAll(): ReadonlyArray<Admission> {
    return this.waiting.takeAll().map(({ admission }) => admission)
  }
}
