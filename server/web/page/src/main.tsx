import "./page.css";
import { render } from "preact";
render(<main data-state="code"><h1>x</h1></main>, document.body);
